"""The results of a study: a file with one line of JSON per finished run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from filelock import FileLock

from igpt.errors import IgptError
from igpt.files import atomic_path

Row = dict[str, Any]


def read_results(path: Path) -> list[Row]:
    """The rows of a results file, oldest first; none if there is no file."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    try:
        return [json.loads(line) for line in lines if line.strip()]
    except json.JSONDecodeError as error:
        raise IgptError(f"{path} has a line that is not JSON ({error}); repair it or delete the line.") from error


def append_result(path: Path, row: Row) -> None:
    """Add a row. The file is replaced as a whole, so it never has part of a row; several processes may add to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        rows = [*read_results(path), row]
        with atomic_path(path) as temporary:
            temporary.write_text("".join(f"{json.dumps(each)}\n" for each in rows), encoding="utf-8")
