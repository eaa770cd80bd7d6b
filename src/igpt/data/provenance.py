"""What data a run was trained on: the record in its run directory, and what has changed since."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from igpt.data.sources.source import ImageFile, ImageSource
from igpt.errors import IgptError, some_of
from igpt.files import atomic_path

Files = Mapping[str, ImageFile]  # by path


@dataclass(frozen=True)
class DataRecord:
    """The key and the classes of a source and, if it has any, its files in each split."""

    key: dict[str, Any]
    classes: tuple[str, ...]
    files: dict[str, list[ImageFile]]

    @classmethod
    def of(cls, source: ImageSource) -> DataRecord:
        return cls(_as_stored(source.key()), tuple(source.classes), source.files())

    def save(self, path: Path) -> None:
        """Write a line of JSON for key and classes, then one per file: split, path, class, hash of the content."""
        rows = [(split, *file) for split, files in self.files.items() for file in files]
        lines = [json.dumps(line) for line in ({"key": self.key, "classes": self.classes}, *rows)]
        with atomic_path(path) as temporary:
            temporary.write_bytes(gzip.compress("\n".join(lines).encode(), compresslevel=1))


def check_unchanged(source: ImageSource, path: Path) -> None:
    """Raise :class:`IgptError` if the data differ from the record at `path`; without a record, nothing is checked."""
    if not path.exists():
        return
    header, *rows = _read_lines(path)
    if header["key"] == _as_stored(source.key()) and tuple(header["classes"]) == tuple(source.classes):
        return
    files: dict[str, list[ImageFile]] = {}
    for split, *file in rows:
        files.setdefault(split, []).append(ImageFile(*file))
    changes = differences(DataRecord(header["key"], tuple(header["classes"]), files), DataRecord.of(source))
    raise IgptError(
        f"The data of this run have changed ({source.name}, {source.origin}): {'; '.join(changes)}. Restore them, or "
        "begin a new run; igpt-probe takes other data by data=NAME."
    )


def _as_stored(key: dict[str, Any]) -> dict[str, Any]:
    """The key as it is read back from JSON, where tuples are lists."""
    return dict(json.loads(json.dumps(key)))


def _read_lines(path: Path) -> list[Any]:
    try:
        lines = gzip.decompress(path.read_bytes()).decode().splitlines()
        return [json.loads(lines[0]), *map(json.loads, lines[1:])]
    except (OSError, EOFError, ValueError, IndexError) as error:
        raise IgptError(
            f"{path} is damaged ({error}), so it is not known whether the data have changed; restore it, or delete it "
            "if they have not."
        ) from None


def differences(old: DataRecord, new: DataRecord) -> list[str]:
    """What has changed between two records, as clauses: what the user did, but not what follows from it."""
    return (
        _changed_files(_by_path(old.files), _by_path(new.files))
        or _changed_settings(old.key, new.key)
        or [f"the classes were {some_of(old.classes)} and are {some_of(new.classes)}"]
    )


def _by_path(files: Mapping[str, list[ImageFile]]) -> Files:
    return {file.path: file for split in files.values() for file in split}


def _changed_files(old: Files, new: Files) -> list[str]:
    missing = [path for path in old if path not in new]
    appeared = [path for path in new if path not in old]
    moved = _moved(old, new, missing, appeared)
    changes = {
        "added": sorted(set(appeared) - set(moved.values())),
        "removed": sorted(set(missing) - set(moved)),
        "changed": sorted(path for path in old if path in new and old[path].content != new[path].content),
    }
    clauses = [f"{_count(len(paths))} {change} ({some_of(paths)})" for change, paths in changes.items() if paths]
    renamed = Counter(_renamed_part(before, after) for before, after in sorted(moved.items()))
    clauses += [f"{before} is now {after} ({_count(n)})" for (before, after), n in list(renamed.items())[:3]]
    return clauses


def _count(n: int) -> str:
    return f"{n} file" if n == 1 else f"{n} files"


def _moved(old: Files, new: Files, missing: list[str], appeared: list[str]) -> dict[str, str]:
    """Old path -> new path of files that were moved: the content is equal, and preferably the name too."""
    moved: dict[str, str] = {}
    for same_name in (True, False):
        candidates: dict[tuple[str, str], list[str]] = {}
        for path in sorted(set(appeared) - set(moved.values()), reverse=True):
            name = PurePath(path).name if same_name else ""
            candidates.setdefault((new[path].content, name), []).append(path)
        for path in missing:
            name = PurePath(path).name if same_name else ""
            found = candidates.get((old[path].content, name))
            if found and path not in moved:
                moved[path] = found.pop()
    return moved


def _renamed_part(before: str, after: str) -> tuple[str, str]:
    """Two paths without their common end, which leaves the folder or the file that was renamed."""
    old, new = PurePath(before).parts, PurePath(after).parts
    while len(old) > 1 and len(new) > 1 and old[-1] == new[-1]:
        old, new = old[:-1], new[:-1]
    return "/".join(old), "/".join(new)


def _changed_settings(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    if names == ["contents"]:
        changed = [split for split, content in new["contents"].items() if old["contents"].get(split) != content]
        return [f"other images, labels or order of them in {', '.join(changed) or 'no split'}"]
    return [f"data.source.{name} was {_short(old.get(name))} and is {_short(new.get(name))}" for name in names]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
