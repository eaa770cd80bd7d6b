"""What is in files: hashes, which are remembered as long as the files stay untouched."""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from igpt.data.notes import read_notes, write_note
from igpt.files import file_state, sha256
from igpt.progress import Progress, track

log = logging.getLogger(__name__)

THREADS = 8  # most of the time is spent waiting for the disk
BATCH = 4096  # files that are handed to the threads at once
HASH = 32  # digits of SHA-256 that are kept

State = tuple[int, ...]
Known = dict[str, tuple[State, str]]


def content_hashes(root: Path, files: Sequence[str], cache_dir: Path | None = None) -> list[str]:
    """The first half of the SHA-256 of each of the `files` below `root`; nothing for one that cannot be read.

    With `cache_dir`, a file is read again only if its size, times or inode have changed since the last call.
    """
    known = _remembered(root, cache_dir)
    states = {file: _state(f"{root}{os.sep}{file}") for file in track(files, "Looking for changed files")}
    todo = [file for file in files if file not in known or known[file][0] != states[file]]
    if len(todo) >= BATCH:
        log.info("Reading %d files of %s, to know them by their content", len(todo), root)
    try:
        with ThreadPoolExecutor(THREADS) as pool, Progress("Reading files", len(todo)) as progress:
            for batch in (todo[i : i + BATCH] for i in range(0, len(todo), BATCH)):
                for file, found in zip(batch, pool.map(lambda file: _hash(root / file), batch), strict=True):
                    known[file] = (states[file], found)
                    progress.advance()
    finally:  # what was read before somebody stopped us need not be read again
        if cache_dir is not None and todo:
            content = json.dumps({file: known[file] for file in files if file in known}).encode()
            write_note(cache_dir, _note(root), gzip.compress(content, compresslevel=1))
    return [known[file][1] for file in files]


def _remembered(root: Path, cache_dir: Path | None) -> Known:
    for note in read_notes(cache_dir, _note(root)) if cache_dir is not None else ():
        try:
            return {file: (tuple(state), found) for file, (state, found) in json.loads(gzip.decompress(note)).items()}
        except (ValueError, EOFError, OSError):
            continue  # damaged: the files are read again
    return {}


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
