"""Hashes of what is in files, which are remembered for as long as the files do not change."""

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

from igpt.data.disk_memo import memo_lock, read_memos, write_memo
from igpt.files import file_state, sha256
from igpt.progress import Progress, track

log = logging.getLogger(__name__)

THREADS = 8  # most of the time is spent waiting for the disk
BATCH = 4096  # files that are handed to the threads at once
HASH_DIGITS = 32  # hexadecimal digits of SHA-256 that are kept

State = tuple[int, ...]
Version = tuple[str, State]  # a file, and its state when it was read
Hashes = dict[Version, str]


def content_hashes(root: Path, files: Sequence[str], cache_dir: Path | None = None) -> list[str]:
    """The first half of the SHA-256 of each of the `files` below `root`; "" for one that cannot be read.

    With `cache_dir`, a file is read again only if its size, times or inode have changed since the last call. Of several
    processes that ask at the same time, one reads while the others wait.
    """
    versions = [(file, _state(f"{root}{os.sep}{file}")) for file in track(files, "Looking for changed files")]
    if cache_dir is None:
        hashes: Hashes = {}
        _read(root, versions, hashes)
        return [hashes[version] for version in versions]
    hashes = _remembered(root, cache_dir)
    if not all(version in hashes for version in versions):
        with memo_lock(cache_dir, _memo_name(root)):
            hashes = _remembered(root, cache_dir)
            _read_and_remember(root, versions, hashes, cache_dir)
    return [hashes[version] for version in versions]


def _read_and_remember(root: Path, versions: Sequence[Version], hashes: Hashes, cache_dir: Path) -> None:
    missing = [version for version in versions if version not in hashes]
    try:
        _read(root, missing, hashes)
    finally:  # an interruption does not lose what was read before it
        if missing:
            rows = {file: (state, hashes[file, state]) for file, state in versions if (file, state) in hashes}
            write_memo(cache_dir, _memo_name(root), gzip.compress(json.dumps(rows).encode(), compresslevel=1))


def _read(root: Path, versions: Sequence[Version], hashes: Hashes) -> None:
    """Read files and add their hashes to `hashes`."""
    if len(versions) >= BATCH:
        log.info("Reading %d files of %s to identify them by their content", len(versions), root)
    with ThreadPoolExecutor(THREADS) as pool, Progress("Reading files", len(versions)) as progress:
        for batch in (versions[i : i + BATCH] for i in range(0, len(versions), BATCH)):
            found = pool.map(lambda version: _hash(root / version[0]), batch)
            for version, digest in zip(batch, found, strict=True):
                hashes[version] = digest
                progress.advance()


def _remembered(root: Path, cache_dir: Path) -> Hashes:
    hashes: Hashes = {}
    for memo in read_memos(cache_dir, _memo_name(root)):
        with suppress(ValueError, EOFError, OSError):  # a damaged memo is ignored
            rows = json.loads(gzip.decompress(memo))
            hashes.update({(file, tuple(state)): digest for file, (state, digest) in rows.items()})
    return hashes


def _memo_name(root: Path) -> str:
    return f"contents/{hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]}.json.gz"


def _state(path: str) -> State:
    try:
        return tuple(file_state(path))
    except OSError:
        return ()  # a broken link


def _hash(path: Path) -> str:
    try:
        return sha256(path)[:HASH_DIGITS]
    except OSError:
        return ""
