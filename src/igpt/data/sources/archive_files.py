"""Reading files inside archives: members, rows of fixed width, and one error for all kinds of damage."""

from __future__ import annotations

import pickle
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from igpt.errors import IgptError

BLOCK_SIZE = 2**24  # bytes that are read at once


def open_member(path: Path, name: str) -> IO[bytes]:
    """The file `name`, seekable, in an unpacked folder, a tar archive or a zip archive.

    In a compressed archive, seeking forward unpacks what it skips, and seeking backward starts from the beginning.
    """
    if path.is_dir():
        return open(path / name, "rb")
    if path.suffix in (".zip", ".npz"):
        return zipfile.ZipFile(path).open(name)
    archive = tarfile.open(path)  # noqa: SIM115, the returned member reads from it
    for member in archive:  # not by name, which would unpack the archive to its end
        if Path(member.name).name == name and (file := archive.extractfile(member)):
            return file
    raise KeyError(f"it has no {name}")


def read_rows(file: IO[bytes], rows: NDArray[np.int64], width: int, offset: int = 0) -> NDArray[np.uint8]:
    """Ascending `rows` as (n, width) uint8, of a file that holds rows of `width` bytes after `offset` bytes."""
    result = np.empty((len(rows), width), np.uint8)
    # Rows of one block are read together. Reading from the first to the last row at once could take the whole file.
    blocks = rows // max(1, BLOCK_SIZE // width)
    for positions in (np.flatnonzero(blocks == block) for block in np.unique(blocks)):
        first, last = rows[positions[0]], rows[positions[-1]]
        file.seek(int(offset + first * width))
        data = np.frombuffer(file.read(int(last - first + 1) * width), np.uint8)
        result[positions] = data.reshape(last - first + 1, width)[rows[positions] - first]
    return result


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Turn any error of reading the file at `path` into an :class:`IgptError` that names it."""
    try:
        yield
    except (
        OSError, EOFError, ValueError, KeyError, IndexError, tarfile.TarError, zipfile.BadZipFile, zlib.error,
        pickle.UnpicklingError,
    ) as error:  # fmt: skip
        raise IgptError(f"{path} is damaged or of another format ({error}); replace or delete it.") from None
