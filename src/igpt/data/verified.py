"""Checksums of packed data, verified once per machine and change."""

from __future__ import annotations

import json
import logging
import socket
from contextlib import suppress
from pathlib import Path

from igpt.data.packed import pack_anew, packed_files
from igpt.errors import IgptError
from igpt.files import atomic_path, home_cache, sha256

log = logging.getLogger(__name__)

State = dict[str, list[int]]


def verify(folder: Path) -> None:
    """Compare the checksums of the folder's files with its manifest, unless this machine did so and none has changed.

    A file whose content is not what was written is an :class:`IgptError` that names it.
    """
    checksums = packed_files(folder)
    found = _state(folder)
    if found in (_read(stamp) for stamp in _stamps(folder)):
        return
    log.info("Verifying the checksums of %s (%.0f MB)", folder, sum(size for size, *_ in found.values()) / 1e6)
    for name, checksum in checksums.items():
        if sha256(folder / name) != checksum:
            raise IgptError(f"{folder / name} is not what was packed, by its checksum; {pack_anew(folder)}")
    mark_verified(folder)


def mark_verified(folder: Path) -> None:
    """Remember for this machine that the folder is as it should be: beside it, or in the user's own cache."""
    for stamp in _stamps(folder):
        with suppress(OSError):
            with atomic_path(stamp) as temporary:
                temporary.write_text(json.dumps(_state(folder)))
            return


def _state(folder: Path) -> State:
    """Size, times of change and inode of each file; a file that was written to, or copied, has others."""
    states = {name: (folder / name).stat() for name in packed_files(folder)}
    return {name: [s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino] for name, s in states.items()}


def _stamps(folder: Path) -> tuple[Path, Path]:
    name = f"{folder.name}-{socket.gethostname()}.json"
    return folder.parent / "verified" / name, home_cache() / "packed" / "verified" / name


def _read(stamp: Path) -> State | None:
    with suppress(OSError, ValueError):
        return dict(json.loads(stamp.read_text()))
    return None
