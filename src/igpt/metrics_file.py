"""Reading metrics.csv, which a run that trains may be writing to."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path


def read_rows(path: Path) -> Iterator[dict[str, str]]:
    """The rows by column, one after the other; none if there is no file."""
    yield from csv.DictReader(whole_lines(path))


def read_columns(path: Path) -> list[str]:
    """The names of the columns; none if there is no file."""
    return next(csv.reader(whole_lines(path)), [])


def whole_lines(path: Path) -> Iterator[str]:
    """The lines of a file, without a last one that has no end; none if there is no file."""
    if path.exists():
        with open(path, newline="", encoding="utf-8") as file:
            yield from (line for line in file if line.endswith("\n"))
