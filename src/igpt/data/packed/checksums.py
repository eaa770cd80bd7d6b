"""Checksums of packed data, which are verified once per machine and change of the files."""

from __future__ import annotations

import json
import logging
import socket
from pathlib import Path

from igpt.data.disk_memo import memo_lock, read_memos, write_memo
from igpt.data.packed.layout import expected_checksums, repack_advice
from igpt.errors import IgptError
from igpt.files import file_state, sha256

log = logging.getLogger(__name__)


def verify_checksums(folder: Path) -> None:
    """Compare the files with the checksums in the manifest, unless this machine did so and no file has changed since.

    A file that differs is an :class:`IgptError` that names it.
    """
    if _is_verified(folder):
        return
    with memo_lock(folder.parents[1], _memo_name(folder)):
        if not _is_verified(folder):
            _compare(folder)
            mark_verified(folder)


def mark_verified(folder: Path) -> None:
    """Remember on this machine that the files are correct."""
    write_memo(folder.parents[1], _memo_name(folder), _file_states(folder))


def _is_verified(folder: Path) -> bool:
    return _file_states(folder) in read_memos(folder.parents[1], _memo_name(folder))


def _compare(folder: Path) -> None:
    expected = expected_checksums(folder)
    size = sum((folder / name).stat().st_size for name in expected)
    log.info("Verifying the checksums of %s (%.0f MB)", folder, size / 1e6)
    for name, checksum in expected.items():
        if sha256(folder / name) != checksum:
            raise IgptError(f"The checksum of {folder / name} is wrong; {repack_advice(folder)}")


def _memo_name(folder: Path) -> str:
    return f"packed/verified/{folder.name}-{socket.gethostname()}.json"


def _file_states(folder: Path) -> bytes:
    """Sizes, times and inodes of the files: they differ when a file was written to, or is a copy."""
    return json.dumps({name: file_state(folder / name) for name in expected_checksums(folder)}).encode()
