"""Files of published data sets: found in the data folder, or downloaded into it."""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pooch
import requests
from filelock import FileLock

from igpt.errors import IgptError
from igpt.files import expand_user
from igpt.progress import Progress

log = logging.getLogger(__name__)

CHUNK_SIZE = 2**20  # bytes
TIMEOUT = 30  # seconds without a byte after which a connection counts as dead

pooch.get_logger().setLevel("ERROR")  # it writes to the terminal itself


def data_root(root: str | None = None) -> Path:
    """The folder of downloaded data: `root`, or IGPT_DATA, or ~/.cache/igpt/data."""
    return expand_user(root or os.environ.get("IGPT_DATA") or "~/.cache/igpt/data")


@dataclass(frozen=True)
class Archive:
    """A published archive: its file name, URL, checksum ("md5:..." or "sha256:..."), and the folder it unpacks to."""

    name: str
    url: str
    checksum: str
    folder: str

    def locate(self, root: str | None) -> Path:
        """The unpacked folder if it exists, else the archive, which is downloaded if it is missing."""
        folder = data_root(root) / self.folder
        if folder.is_dir():
            return folder
        return find_or_download(self.name, self.url, self.checksum, data_root(root))


def find_or_download(name: str, url: str, checksum: str, root: Path) -> Path:
    """The file `name` in the folder `root`. If it is missing, it is downloaded, and its checksum is verified.

    A file that exists is used as it is. Of several processes, one downloads while the others wait. A download that
    fails leaves nothing. Without a network, the :class:`IgptError` says which file to put where.
    """
    path = root / name
    if path.exists():
        return path
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if not path.exists():
                _download(url, checksum, path)
    except requests.RequestException as error:
        raise IgptError(
            f"{name} is not in {root}, and downloading it from {url} failed ({error}); run the command again, or "
            f"download the file on a machine that can reach that address and put it at {path}."
        ) from None
    except ValueError:  # raised by pooch
        raise IgptError(
            f"What {url} sent does not have the checksum {checksum} and was deleted; run the command again, or get "
            f"{name} elsewhere and put it at {path}."
        ) from None
    except OSError as error:
        raise IgptError(f"{path} cannot be written ({error}); set IGPT_DATA to a folder with space.") from None
    return path


def _download(url: str, checksum: str, path: Path) -> None:
    """Download to a folder beside `path`, so that the next attempt can delete what a killed process has left."""
    log.info("Downloading %s to %s", url, path)
    unfinished = path.with_name(f"{path.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        with Progress(f"Downloading {path.name}") as progress:
            download = pooch.HTTPDownloader(_ProgressBar(progress), CHUNK_SIZE, timeout=TIMEOUT)
            pooch.retrieve(url, checksum, path.name, unfinished, downloader=download)
        (unfinished / path.name).replace(path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


class _ProgressBar:
    """A progress bar with the interface that pooch expects."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    @property
    def total(self) -> float | None:
        return self._progress.total

    @total.setter
    def total(self, total: int) -> None:
        self._progress.total = total or None  # 0 means that the server does not say

    def update(self, n: int) -> None:
        self._progress.advance(n)

    def reset(self) -> None:
        self._progress.update(0)

    def close(self) -> None:
        self._progress.close()
