"""Checksums of packed data, verified once per machine and change."""

from __future__ import annotations

import json
import logging
import socket
from pathlib import Path

from igpt.data.notes import note_lock, read_notes, write_note
from igpt.data.packed import pack_anew, packed_files
from igpt.errors import IgptError
from igpt.files import file_state, sha256

log = logging.getLogger(__name__)


def verify(folder: Path) -> None:
    """Compare the checksums of the folder's files with its manifest, unless this machine did so and none has changed.

    A file whose content is not what was written is an :class:`IgptError` that names it.
    """
    if _is_verified(folder):
        return
    with note_lock(folder.parents[1], _note(folder)):
        if not _is_verified(folder):
            _compare(folder)
            mark_verified(folder)


def _is_verified(folder: Path) -> bool:
    return _states(folder) in read_notes(folder.parents[1], _note(folder))


def _compare(folder: Path) -> None:
    checksums = packed_files(folder)
    size = sum((folder / name).stat().st_size for name in checksums)
    log.info("Verifying the checksums of %s (%.0f MB)", folder, size / 1e6)
    for name, checksum in checksums.items():
        if sha256(folder / name) != checksum:
            raise IgptError(f"{folder / name} is not what was packed, by its checksum; {pack_anew(folder)}")


def mark_verified(folder: Path) -> None:
    """Remember for this machine that the folder is as it should be."""
    write_note(folder.parents[1], _note(folder), _states(folder))


def _note(folder: Path) -> str:
    return f"packed/verified/{folder.name}-{socket.gethostname()}.json"


def _states(folder: Path) -> bytes:
    """What tells whether a file was written to, or is a copy."""
    return json.dumps({name: file_state(folder / name) for name in packed_files(folder)}).encode()
