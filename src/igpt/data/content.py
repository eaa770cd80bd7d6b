"""What is in files: hashes, which are remembered as long as the files stay untouched."""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from igpt.data.notes import note_lock, read_notes, write_note
from igpt.files import file_state, sha256
from igpt.progress import Progress, track

log = logging.getLogger(__name__)

THREADS = 8  # most of the time is spent waiting for the disk
BATCH = 4096  # files that are handed to the threads at once
HASH = 32  # digits of SHA-256 that are kept

State = tuple[int, ...]
Version = tuple[str, State]  # a file, and what its state was when it was read
Known = dict[Version, str]


def content_hashes(root: Path, files: Sequence[str], cache_dir: Path | None = None) -> list[str]:
    """The first half of the SHA-256 of each of the `files` below `root`; nothing for one that cannot be read.

    With `cache_dir`, a file is read again only if its size, times or inode have changed since the last call. Of several
    processes that ask at the same time, one reads, and the others wait.
    """
    versions = [(file, _state(f"{root}{os.sep}{file}")) for file in track(files, "Looking for changed files")]
    if cache_dir is None:
        known: Known = {}
        _read(root, versions, known)
        return [known[version] for version in versions]
    known = _remembered(root, cache_dir)
    if not all(version in known for version in versions):
        with note_lock(cache_dir, _note(root)):
            known = _remembered(root, cache_dir)
            _read_and_remember(root, versions, known, cache_dir)
    return [known[version] for version in versions]


def _read_and_remember(root: Path, versions: Sequence[Version], known: Known, cache_dir: Path) -> None:
    todo = [version for version in versions if version not in known]
    try:
        _read(root, todo, known)
    finally:  # what was read before somebody stopped us need not be read again
        if todo:
            rows = {file: (state, known[file, state]) for file, state in versions if (file, state) in known}
            write_note(cache_dir, _note(root), gzip.compress(json.dumps(rows).encode(), compresslevel=1))


def _read(root: Path, todo: Sequence[Version], known: Known) -> None:
    """Read files; what is in them becomes `known`."""
    if len(todo) >= BATCH:
        log.info("Reading %d files of %s, to know them by their content", len(todo), root)
    with ThreadPoolExecutor(THREADS) as pool, Progress("Reading files", len(todo)) as progress:
        for batch in (todo[i : i + BATCH] for i in range(0, len(todo), BATCH)):
            for version, found in zip(batch, pool.map(lambda version: _hash(root / version[0]), batch), strict=True):
                known[version] = found
                progress.advance()


def _remembered(root: Path, cache_dir: Path) -> Known:
    known: Known = {}
    for note in read_notes(cache_dir, _note(root)):
        with suppress(ValueError, EOFError, OSError):  # damaged: the files are read again
            rows = json.loads(gzip.decompress(note))
            known.update({(file, tuple(state)): found for file, (state, found) in rows.items()})
    return known


def _note(root: Path) -> str:
    return f"contents/{hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]}.json.gz"


def _state(path: str) -> State:
    try:
        return tuple(file_state(path))
    except OSError:
        return ()  # a link to nowhere


def _hash(path: Path) -> str:
    try:
        return sha256(path)[:HASH]
    except OSError:
        return ""
