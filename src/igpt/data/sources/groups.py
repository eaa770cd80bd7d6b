"""Groups of image files that must stay in one split, such as the images of one patient or one video."""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from igpt.data.sources.splits import Indices
from igpt.errors import IgptError
from igpt.files import expand_user


def group_key(group: str) -> str:
    """What the groups depend on besides the files: the pattern, or a hash of the table."""
    return hashlib.sha256(_table(group).read_bytes()).hexdigest() if _is_table(group) else group


def group_indices(group: str, files: Sequence[str]) -> Indices:
    """The group of each file (a path in the folder of images), numbered from 0 in the order of first appearance.

    `group` is a regular expression or the path of a CSV file.
    """
    names = _from_table(_table(group), files) if _is_table(group) else _from_pattern(group, files)
    indices: dict[str, int] = {}
    return np.array([indices.setdefault(name, len(indices)) for name in names], np.int64)


def _is_table(group: str) -> bool:
    return group.lower().endswith(".csv")


def _table(group: str) -> Path:
    path = expand_user(group)
    if not path.is_file():
        raise IgptError(f"There is no table of groups at {path}; set data.source.group.")
    return path


def _from_table(path: Path, files: Sequence[str]) -> list[str]:
    with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as table:
        reader = csv.DictReader(table)
        if not {"path", "group"} <= set(reader.fieldnames or ()):
            raise IgptError(f"The first line of {path} must name its columns, among them path and group.")
        groups = {row["path"]: row["group"] for row in reader}
    missing = next((file for file in files if not groups.get(file)), None)
    if missing is not None:
        raise IgptError(f"{path} has no group for {missing}; each image needs one, by its path in data.source.path.")
    return [groups[file] for file in files]


def _from_pattern(pattern: str, files: Sequence[str]) -> list[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise IgptError(f"data.source.group='{pattern}' is not a regular expression ({error}).") from None
    if compiled.groups == 0:
        raise IgptError(f"data.source.group='{pattern}' needs parentheses around the name of the group.")
    matches = [compiled.search(file) for file in files]
    missing = next((file for file, match in zip(files, matches, strict=True) if not match), None)
    if missing is not None:
        raise IgptError(f"data.source.group='{pattern}' does not match {missing}; each image needs a group.")
    return ["/".join(part or "" for part in match.groups()) for match in matches if match]
