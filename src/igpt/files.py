"""Files: atomic writing, JSON, CSV and YAML, checksums, paths, and names as text."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from igpt.errors import IgptError
from igpt.progress import Progress

YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # that of C is ten times as fast


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path next to `path` to write to; it replaces `path` at the end, and is deleted on an error.

    The temporary name keeps the suffix, because many writers choose their format by it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}-{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_rows(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write a CSV file with a column for each name in any of the rows, atomically."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def write_json(values: Mapping[str, Any], path: Path) -> None:
    """Write one flat object, atomically; scalars of numpy and torch, which evaluators may return, as plain numbers."""
    with atomic_path(path) as temporary:
        text = json.dumps(values, indent=2, default=lambda scalar: scalar.item())
        temporary.write_text(f"{text}\n", encoding="utf-8")


def read_json(path: Path, otherwise: Any = ()) -> Any:
    """The content of a JSON file; `otherwise` if there is none. Raises :class:`IgptError` if it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else otherwise
    except ValueError as error:
        raise IgptError(f"{path} is damaged ({error}); restore it, or move it away.") from None


def parse_yaml(text: str) -> Any:
    """What is written in YAML, with the interpolations of OmegaConf as text; None if it is nothing, or no YAML."""
    try:
        return yaml.load(text, YAML_LOADER)
    except yaml.YAMLError:
        return None


def sha256(path: Path) -> str:
    """The SHA-256 hash of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file, Progress(f"Checksum of {path.name}", path.stat().st_size) as progress:
        while block := file.read(2**20):
            digest.update(block)
            progress.advance(len(block))
    return digest.hexdigest()


def file_state(path: str | Path) -> list[int]:
    """Size, modification and change times (ns) and inode of a file: a write, a replacement or a copy changes them."""
    status = os.stat(path)  # noqa: PTH116, faster for a million paths
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def expand_user(path: str | Path) -> Path:
    """The path with ~ replaced by the home directory, or by one below /tmp for a user without a home (containers)."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        _, *rest = Path(path).parts
        return Path(tempfile.gettempdir(), f"igpt-home-{os.getuid()}", *rest)


def cache_root() -> Path:
    """The cache: IGPT_CACHE, or the one in the user's home."""
    return expand_user(os.environ.get("IGPT_CACHE") or home_cache())


def home_cache() -> Path:
    """The cache in the user's home, whatever IGPT_CACHE says."""
    return expand_user("~/.cache/igpt")


def write_names(path: Path, lines: Iterable[str]) -> None:
    """Write a text file of lines with file names, which need not be UTF-8: their bytes are kept."""
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", errors="surrogateescape")


def printable(name: str | Path) -> str:
    """A name as valid UTF-8 text: other bytes become escapes."""
    return str(name).encode(errors="backslashreplace").decode()


def all_printable(value: Any) -> Any:
    """Nested dicts and lists in which all text is printable (valid UTF-8)."""
    if isinstance(value, dict):
        return {key: all_printable(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [all_printable(inner) for inner in value]
    return printable(value) if isinstance(value, str) else value
