"""metrics.csv: the measured values of a run, one row per logged step."""

from __future__ import annotations

import csv
import heapq
import io
import math
import os
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from igpt.files import atomic_path
from igpt.metrics_file import read_columns, read_rows

Row = dict[str, Any]


class MetricsCSV(Logger):
    """One row per logged step, one column per metric. Steps count from 0, as everywhere in Lightning.

    The values of a step come in several calls: those of training, then those of validation. They are collected, and
    appended as one row when the step is complete: at the first value of another step, at :meth:`flush`, or at the end
    of training. Other programs may read the file at any time.

    Two kinds of values do not fit below the last line: those of a metric that has no column yet, such as the first
    validation, and those of a step that has its row already, such as the test results. For these the file is rewritten,
    atomically and one row at a time.

    A file that was deleted or truncated during training is rewritten, with the rows that it still has.

    A resumed run keeps the rows of the steps before `first_step`. When it writes its first row, it removes the later
    ones, and a line that a kill cut off.
    """

    def __init__(self, path: Path, first_step: int = 0) -> None:
        super().__init__()
        self.path = path
        self._first_step = first_step
        self._row: Row = {}  # the values that are not in the file yet
        self._row_step = 0
        self._columns: list[str] = []  # of the file; empty until this process has written to it
        self._last_step = -1  # of the rows in the file
        self._end = 0  # bytes of the header and the rows

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Does nothing: the configuration is in .hydra/."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        step = step or 0
        if step != self._row_step:
            self._write_row()
        self._row_step = step
        self._row.update({name: value for name, value in metrics.items() if name != "epoch"})

    @rank_zero_only
    def flush(self) -> None:
        """Write the values logged so far, whose step is complete; they are on the disk when this returns."""
        self._write_row()
        if self._is_complete():
            with open(self.path, "rb") as file:
                os.fsync(file.fileno())

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.flush()

    def _write_row(self) -> None:
        if not self._row:
            return
        fits_below = self._row_step > self._last_step and self._row.keys() <= set(self._columns)
        if fits_below and self._is_complete():
            self._append()
        else:
            self._rewrite()
        self._row = {}

    def _is_complete(self) -> bool:
        """Whether the file has all that this process wrote."""
        return bool(self._columns) and self.path.exists() and self.path.stat().st_size >= self._end

    def _append(self) -> None:
        line = io.StringIO()
        csv.DictWriter(line, self._columns).writerow({"step": self._row_step, **self._row})
        with open(self.path, "r+b") as file:
            file.seek(self._end)  # over what a failed attempt left, on a full disk for example
            file.write(line.getvalue().encode())
            file.truncate()
            self._end = file.tell()
        self._last_step = self._row_step

    def _rewrite(self) -> None:
        kept_until = math.inf if self._columns else self._first_step
        kept = (row for row in read_rows(self.path) if int(row["step"]) < kept_until)
        columns = ["step", *sorted({*read_columns(self.path), *self._row} - {"step"})]
        with atomic_path(self.path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            for row in merged(kept, {"step": self._row_step, **self._row}):
                writer.writerow(row)
            self._end = file.tell()
        self._last_step = int(row["step"])
        self._columns = columns


def merged(rows: Iterable[Row], new: Row) -> Iterator[Row]:
    """The rows and a new one in the order of their steps; if its step has a row, one with the values of both."""

    def step_of(row: Row) -> int:
        return int(row["step"])

    for _, same_step in groupby(heapq.merge(rows, [new], key=step_of), key=step_of):
        yield {name: value for row in same_step for name, value in row.items()}
