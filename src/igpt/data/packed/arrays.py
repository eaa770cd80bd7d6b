"""Writing parts of .npy files that are larger than memory."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock
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


def create_growing_array(path: Path, dtype: type[np.generic], shape: tuple[int, ...]) -> None:
    """A .npy file of no rows of this shape, to which rows can be appended."""
    with path.open("wb") as file:
        _write_header(file, dtype, (0, *shape))


def append_rows(path: Path, rows: NDArray[Any], lock: Path) -> int:
    """Append rows (n, ...) to such a file, and return the number of the first one.

    Processes that hold the `lock` take turns. If one is killed here, the file has rows that nobody uses.
    """
    with FileLock(lock), path.open("r+b") as file:
        start, offset = _grown_to(file)
        file.seek(offset + start * rows[:1].nbytes)
        file.write(np.ascontiguousarray(rows).data)
        file.flush()
        os.fsync(file.fileno())
    return start


def finish_growing_array(path: Path) -> None:
    """Write the number of rows into the header; until then, the array seems to be empty."""
    with path.open("r+b") as file:
        n, _ = _grown_to(file)
        file.seek(0)
        _, (_, *shape), dtype = _read_header(file)
        file.seek(0)
        _write_header(file, dtype.type, (n, *shape))


def _grown_to(file: BinaryIO) -> tuple[int, int]:
    """The number of complete rows in a growing array, and the byte at which they begin."""
    offset, (_, *shape), dtype = _read_header(file)
    size = file.seek(0, os.SEEK_END) - offset
    return size // (math.prod(shape) * dtype.itemsize), offset


def _read_header(file: BinaryIO) -> tuple[int, tuple[int, ...], np.dtype[Any]]:
    np.lib.format.read_magic(file)
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    return file.tell(), shape, dtype


def _write_header(file: BinaryIO, dtype: type[np.generic], shape: tuple[int, ...]) -> None:
    """Its length does not depend on the first dimension, for which numpy leaves room."""
    descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def keep_rows(path: Path, rows: NDArray[np.int64]) -> None:
    """Rewrite a .npy file with only these rows."""
    array = np.load(path, mmap_mode="r")
    if len(array) == len(rows):
        return
    with atomic_path(path) as temporary:
        create_array(temporary, array.dtype.type, (len(rows), *array.shape[1:]))
        for start in range(0, len(rows), ROWS_AT_ONCE):
            write_rows(temporary, start, array[rows[start : start + ROWS_AT_ONCE]])
