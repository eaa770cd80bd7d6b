"""Reading metrics.csv, which a run that trains may be writing to."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path


def read_rows(path: Path) -> Iterator[dict[str, str]]:
    """The rows by column, one after the other; none if there is no file. A last line without its end is left out."""
    if path.exists():
        with open(path, newline="", encoding="utf-8") as file:
            yield from csv.DictReader(line for line in file if line.endswith("\n"))


def read_columns(path: Path) -> list[str]:
    """The names of the columns; none if there is no file."""
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return next(csv.reader(file), [])
