"""What a run was trained on: the record it keeps of its data, and what has changed since."""

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
    """The key and the classes of a source, and its files in each split where it has any."""

    key: dict[str, Any]
    classes: tuple[str, ...]
    files: dict[str, list[ImageFile]]

    def save(self, path: Path) -> None:
        """One line of JSON for key and classes, then one for each file: split, path, class, hash of the content."""
        rows = [(split, *file) for split, files in self.files.items() for file in files]
        lines = [json.dumps(line) for line in ({"key": self.key, "classes": self.classes}, *rows)]
        with atomic_path(path) as temporary:
            temporary.write_bytes(gzip.compress("\n".join(lines).encode(), compresslevel=1))


def record_of(source: ImageSource) -> DataRecord:
    key = json.loads(json.dumps(source.key()))  # as it comes back from a file
    return DataRecord(key, tuple(source.classes), source.files())


def check_record(source: ImageSource, path: Path) -> None:
    """Refuse data that are not what a run was trained on; a run without a record is not checked."""
    if not path.exists():
        return
    header, *rows = _lines(path)
    if header["key"] == json.loads(json.dumps(source.key())) and tuple(header["classes"]) == tuple(source.classes):
        return
    files: dict[str, list[ImageFile]] = {}
    for split, *file in rows:
        files.setdefault(split, []).append(ImageFile(*file))
    changes = differences(DataRecord(header["key"], tuple(header["classes"]), files), record_of(source))
    raise IgptError(
        f"The data of this run have changed ({source.name}, {source.origin}): {'; '.join(changes)}. Restore them, or "
        "begin a new run; igpt-probe takes other data by data=NAME."
    )


def _lines(path: Path) -> list[Any]:
    try:
        lines = gzip.decompress(path.read_bytes()).decode().splitlines()
        return [json.loads(lines[0]), *map(json.loads, lines[1:])]
    except (OSError, EOFError, ValueError, IndexError) as error:
        raise IgptError(
            f"{path} is damaged ({error}), so whether the data have changed is not known; restore it, or delete it if "
            "they have not."
        ) from None


def differences(old: DataRecord, new: DataRecord) -> list[str]:
    """What has changed between two records, as clauses: what a person did, and not what follows from it."""
    return (
        _changed_files(_by_path(old.files), _by_path(new.files))
        or _changed_settings(old.key, new.key)
        or [f"the classes were {some_of(old.classes)} and are {some_of(new.classes)}"]
    )


def _by_path(files: Mapping[str, list[ImageFile]]) -> Files:
    return {file.path: file for split in files.values() for file in split}


def _changed_files(old: Files, new: Files) -> list[str]:
    gone, come = [p for p in old if p not in new], [p for p in new if p not in old]
    moved = _moved(old, new, gone, come)
    added = sorted(set(come) - set(moved.values()))
    removed = sorted(set(gone) - set(moved))
    changed = sorted(p for p in old if p in new and old[p].content != new[p].content)
    counted = {"added": added, "removed": removed, "changed": changed}
    clauses = [f"{_files(len(paths))} {what} ({some_of(paths)})" for what, paths in counted.items() if paths]
    renamed = Counter(_outermost_change(before, after) for before, after in sorted(moved.items()))
    return clauses + [f"{before} is now {after} ({_files(n)})" for (before, after), n in renamed.items()][:3]


def _files(n: int) -> str:
    return f"{n} file" if n == 1 else f"{n} files"


def _moved(old: Files, new: Files, gone: list[str], come: list[str]) -> dict[str, str]:
    """New paths of files that are no longer at their old ones: where the same content is, at best by the same name."""
    moved: dict[str, str] = {}
    for same_name in (True, False):
        places: dict[tuple[str, str], list[str]] = {}
        for path in sorted(set(come) - set(moved.values()), reverse=True):
            places.setdefault((new[path].content, PurePath(path).name if same_name else ""), []).append(path)
        for path in gone:
            found = places.get((old[path].content, PurePath(path).name if same_name else ""))
            if found and path not in moved:
                moved[path] = found.pop()
    return moved


def _outermost_change(before: str, after: str) -> tuple[str, str]:
    """Two paths without the parts at their ends that are equal: the folders that were renamed, or the files."""
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
