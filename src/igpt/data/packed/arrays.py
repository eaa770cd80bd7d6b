"""Writing parts of .npy files that are larger than memory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from igpt.files import atomic_path

ROWS_AT_ONCE = 2048


def create_array(path: Path, dtype: type[np.generic], shape: tuple[int, ...]) -> None:
    """A .npy file of this shape, whose content is not defined yet."""
    np.lib.format.open_memmap(path, "w+", dtype, shape)


def write_rows(path: Path, start: int, rows: NDArray[Any]) -> None:
    """Write rows (n, ...) to their place in a .npy file.

    This writes to the file and not to a memory map: on a full disk, a write to the map would kill the process.
    """
    array = np.load(path, mmap_mode="r")
    with open(path, "r+b") as file:
        file.seek(array.offset + start * array[:1].nbytes)
        file.write(np.ascontiguousarray(rows, array.dtype).data)
        file.flush()
        os.fsync(file.fileno())


def keep_rows(path: Path, rows: NDArray[np.int64]) -> None:
    """Rewrite a .npy file with only these rows."""
    array = np.load(path, mmap_mode="r")
    if len(array) == len(rows):
        return
    with atomic_path(path) as temporary:
        create_array(temporary, array.dtype.type, (len(rows), *array.shape[1:]))
        for start in range(0, len(rows), ROWS_AT_ONCE):
            write_rows(temporary, start, array[rows[start : start + ROWS_AT_ONCE]])
