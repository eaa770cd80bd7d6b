"""Results that are slow to compute, remembered on disk. They save time and may be deleted at any moment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock

from igpt.files import atomic_path, home_cache


def write_memo(cache_dir: Path, name: str, content: bytes) -> None:
    """Remember `content` in the cache, or in the user's own cache if that cannot be written, or else not at all."""
    for path in _paths(cache_dir, name):
        with suppress(OSError):
            with atomic_path(path) as temporary:
                temporary.write_bytes(content)
            return


def read_memos(cache_dir: Path, name: str) -> Iterator[bytes]:
    """What is remembered under this name, in either cache."""
    for path in _paths(cache_dir, name):
        with suppress(OSError):
            yield path.read_bytes()


@contextmanager
def memo_lock(cache_dir: Path, name: str) -> Iterator[None]:
    """Let one process compute what the others then read: take this lock, and read again before you compute.

    The lock is a file beside the memo. Where none can be written, each process computes for itself.
    """
    with ExitStack() as held:
        for path in _paths(cache_dir, name):
            with suppress(OSError):
                path.parent.mkdir(parents=True, exist_ok=True)
                held.enter_context(FileLock(f"{path}.lock"))
                break
        yield


def _paths(cache_dir: Path, name: str) -> tuple[Path, Path]:
    return cache_dir / name, home_cache() / name
