"""What is remembered beside packed data to save time, and may be lost at any time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock

from igpt.files import atomic_path, home_cache


def write_note(cache_dir: Path, name: str, content: bytes) -> None:
    """Remember something in the cache; in the user's own if that one cannot be written, or else not at all."""
    for path in _places(cache_dir, name):
        with suppress(OSError):
            with atomic_path(path) as temporary:
                temporary.write_bytes(content)
            return


def read_notes(cache_dir: Path, name: str) -> Iterator[bytes]:
    """What was remembered under this name."""
    for path in _places(cache_dir, name):
        with suppress(OSError):
            yield path.read_bytes()


@contextmanager
def note_lock(cache_dir: Path, name: str) -> Iterator[None]:
    """One process at a time finds out what a note remembers, and the others then read it: take this lock, read again.

    The lock lies beside the note. Where none can be written, each process works for itself.
    """
    with ExitStack() as held:
        for path in _places(cache_dir, name):
            with suppress(OSError):
                path.parent.mkdir(parents=True, exist_ok=True)
                held.enter_context(FileLock(f"{path}.lock"))
                break
        yield


def _places(cache_dir: Path, name: str) -> tuple[Path, Path]:
    return cache_dir / name, home_cache() / name
