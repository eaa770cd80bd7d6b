"""Groups of image files that must not be divided between training and test: of one patient, one video, one place."""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from igpt.data.sources.splits import Numbers
from igpt.errors import IgptError
from igpt.files import expand_user


def is_table(group: str) -> bool:
    """Whether data.source.group names a CSV file, and is no pattern."""
    return group.lower().endswith(".csv")


def group_key(group: str) -> str:
    """What the groups depend on beside the files: the pattern, or what is in the table."""
    return hashlib.sha256(_table(group).read_bytes()).hexdigest() if is_table(group) else group


def group_names(group: str, files: Sequence[str]) -> list[str]:
    """The name of the group of each file (a path inside the folder of images)."""
    return _from_table(_table(group), files) if is_table(group) else _from_pattern(group, files)


def numbered(names: Sequence[str]) -> Numbers:
    """A number for each name, from 0 on in the order of first appearance."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int64)


def _table(group: str) -> Path:
    path = expand_user(group)
    if not path.is_file():
        raise IgptError(f"There is no table of groups at {path}; set data.source.group.")
    return path


def _from_table(path: Path, files: Sequence[str]) -> list[str]:
    with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as table:
        reader = csv.DictReader(table)
        if not {"path", "group"} <= set(reader.fieldnames or ()):
            raise IgptError(f"{path} needs a first line with the names of its columns, path and group among them.")
        groups = {row["path"]: row["group"] for row in reader}
    missing = next((file for file in files if not groups.get(file)), None)
    if missing is not None:
        raise IgptError(f"{path} has no group for {missing}; each image needs one, by its path in data.source.path.")
    return [groups[file] for file in files]


def _from_pattern(pattern: str, files: Sequence[str]) -> list[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise IgptError(f"data.source.group='{pattern}' is no regular expression ({error}).") from None
    if compiled.groups == 0:
        raise IgptError(f"data.source.group='{pattern}' needs parentheses around what names the group.")
    found = [compiled.search(file) for file in files]
    missing = next((file for file, match in zip(files, found, strict=True) if not match), None)
    if missing is not None:
        raise IgptError(f"data.source.group='{pattern}' does not match {missing}; each image needs a group.")
    return ["/".join(part or "" for part in match.groups()) for match in found if match]
