"""Reading metrics.csv, which a run that trains may be writing to."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path

from igpt.errors import IgptError

Points = list[tuple[int, float]]  # step and value; values may be nan or infinite
Series = dict[str, Points]  # by the name of the metric


def read_rows(path: Path) -> Iterator[dict[str, str]]:
    """The rows by column, one after the other; none if there is no file."""
    yield from csv.DictReader(whole_lines(path))


def read_columns(path: Path) -> list[str]:
    """The names of the columns; none if there is no file."""
    return next(csv.reader(whole_lines(path)), [])


def read_series(path: Path) -> Series:
    """The values of each metric; empty if there is no file. Raises :class:`IgptError` if it is damaged."""
    series: Series = {}
    for row in read_rows(path):
        try:
            step = int(row["step"])
            for name, text in row.items():
                if text and name != "step":
                    series.setdefault(name, []).append((step, float(text)))
        except (KeyError, TypeError, ValueError) as error:
            raise IgptError(f"{path} is damaged ({error}); restore it, or move it away.") from None
    return series


def whole_lines(path: Path) -> Iterator[str]:
    """The lines of a file, without a last one that has no end; none if there is no file."""
    if path.exists():
        with open(path, newline="", encoding="utf-8") as file:
            yield from (line for line in file if line.endswith("\n"))


def last_step(path: Path) -> int:
    """The step of the last whole row of metrics.csv, without reading the others; -1 if there is none."""
    if not path.exists():
        return -1
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 16_384))
        lines = file.read().split(b"\n")[:-1]  # what follows the last end of a line is not whole
    first = lines[-1].split(b",")[0] if lines else b""
    return int(first) if first.isdigit() else -1
