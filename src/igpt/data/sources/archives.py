"""Files of published data sets: found in the data folder, or downloaded into it."""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import IO

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from igpt.errors import IgptError
from igpt.files import expand_user
from igpt.progress import Progress

log = logging.getLogger(__name__)

CHUNK = 2**20  # bytes that are read at once
TIMEOUT = 30  # seconds without a byte after which a connection counts as dead


def data_root(root: str | None = None) -> Path:
    """The folder of downloaded data: `root`, or IGPT_DATA, or ~/.cache/igpt/data."""
    return expand_user(root or os.environ.get("IGPT_DATA") or "~/.cache/igpt/data")


@dataclass(frozen=True)
class Archive:
    """A published archive: its file name, address, MD5 or SHA-256, and the folder that unpacking it makes."""

    name: str
    url: str
    checksum: str
    folder: str

    def locate(self, root: str | None) -> Path:
        """The unpacked folder if it is there, else the archive, downloaded if need be."""
        folder = data_root(root) / self.folder
        return folder if folder.is_dir() else find_or_download(self.name, self.url, self.checksum, data_root(root))


def find_or_download(name: str, url: str, checksum: str, root: Path) -> Path:
    """The file `name` in the folder `root`; if it is not there, it is downloaded, and only then checked.

    An interrupted download is gone on with. Of several processes one downloads while the others wait. Without a
    network the :class:`IgptError` says which file to put where.
    """
    path = root / name
    if path.exists():
        return path
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if not path.exists():
                part = path.with_name(f"{name}.part")
                _download(url, part, path)
                _verify(part, checksum, url)
                part.replace(path)
    except OSError as error:
        raise IgptError(f"{path} cannot be written ({error}); set IGPT_DATA to a folder with space.") from None
    return path


def _download(url: str, part: Path, path: Path) -> None:
    """Fetch `url` into `part`; go on after a broken connection for as long as each attempt brings something."""
    log.info("Downloading %s to %s", url, path)
    while True:
        before = _size(part)
        try:
            return _fetch_rest(url, part)
        except (urllib.error.URLError, HTTPException, ConnectionError, TimeoutError) as error:
            if _size(part) <= before:
                raise IgptError(
                    f"{path.name} is not in {path.parent}, and {url} does not give it ({error}); download it on a "
                    f"machine that can reach that address and put it at {path}, or run the command again later, which "
                    f"goes on after the {before} bytes that are there."
                ) from None


def _fetch_rest(url: str, part: Path) -> None:
    """Append to `part` what it lacks; raises ConnectionError if the server stops too early."""
    done = _size(part)
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if done and error.code == 416:  # nothing is left to send: the whole file is here
            return
        raise
    with response:
        if response.status != 206:  # the server sends the whole file again
            done = 0
        total = done + int(response.headers["Content-Length"]) if "Content-Length" in response.headers else None
        with open(part, "ab" if done else "wb") as file, Progress(f"Downloading {part.stem}", total, done) as progress:
            while chunk := response.read(CHUNK):
                file.write(chunk)
                progress.advance(len(chunk))
        if total is not None and _size(part) < total:
            raise ConnectionError(f"the connection broke after {_size(part)} of {total} bytes")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _verify(part: Path, checksum: str, url: str) -> None:
    """Delete a download whose MD5 or SHA-256 is not `checksum`, and say so."""
    digest = hashlib.md5(usedforsecurity=False) if len(checksum) == 32 else hashlib.sha256()
    with open(part, "rb") as file, Progress(f"Checksum of {part.stem}", _size(part)) as progress:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            progress.advance(len(chunk))
    if digest.hexdigest() != checksum:
        part.unlink()
        raise IgptError(
            f"What {url} sent has the checksum {digest.hexdigest()} instead of {checksum} and was deleted; run the "
            "command again, or get the file from elsewhere."
        )


# Reading inside


def open_member(place: Path, name: str) -> IO[bytes]:
    """The file `name`, seekable, in an unpacked folder, a tar or a zip archive (`place`).

    Inside a compressed archive a seek forwards unpacks what it skips, and a seek backwards starts anew.
    """
    if place.is_dir():
        return open(place / name, "rb")
    if place.suffix in (".zip", ".npz"):
        return zipfile.ZipFile(place).open(name)
    archive = tarfile.open(place)  # noqa: SIM115, the member that is returned reads from it
    for member in archive:  # not by name, which would unpack the archive to its end
        if Path(member.name).name == name and (file := archive.extractfile(member)):
            return file
    raise KeyError(f"it has no {name}")


def read_rows(file: IO[bytes], rows: NDArray[np.int64], width: int, offset: int = 0) -> NDArray[np.uint8]:
    """Ascending `rows`, (n, width), of a file that has nothing but rows of `width` bytes after `offset` bytes."""
    result = np.empty((len(rows), width), np.uint8)
    blocks = rows // max(1, 16 * CHUNK // width)  # few rows of a long stretch are not worth the memory of all of it
    for places in (np.flatnonzero(blocks == block) for block in np.unique(blocks)):
        first, last = rows[places[0]], rows[places[-1]]
        file.seek(int(offset + first * width))
        data = np.frombuffer(file.read(int(last - first + 1) * width), np.uint8)
        result[places] = data.reshape(last - first + 1, width)[rows[places] - first]
    return result


@contextmanager
def blaming(path: Path) -> Iterator[None]:
    """Whatever goes wrong inside is the fault of the file at `path`."""
    try:
        yield
    except (
        OSError, EOFError, ValueError, KeyError, IndexError, tarfile.TarError, zipfile.BadZipFile, zlib.error,
        pickle.UnpicklingError,
    ) as error:  # fmt: skip
        raise IgptError(f"{path} is damaged or of another format ({error}); replace or delete it.") from None
