"""Logging one more row of metrics.csv in a run that has logged many.

python benchmarks/metrics.py
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from table import Row, write_table

from igpt.files import atomic_path
from igpt.training.loggers.metrics_csv import MetricsCSV

Values = dict[str, float]

NAMES = (
    "train/loss", "train/nats_per_token", "train/bits_per_token", "train/grad_norm", "train/lr", "data/images",
    "data/flops", "speed/images_per_second", "speed/tokens_per_second", "speed/flops_per_second", "speed/mfu",
    "speed/peak_memory_gb",
)  # fmt: skip


def values_of(step: int) -> Values:
    """As many values as a run logs at a step of training."""
    return {name: 1 / (step + n + 3) for n, name in enumerate(NAMES)}


def appended(path: Path, rows: int) -> Callable[[int], None]:
    """Logs a row to a file with so many rows, as igpt does."""
    metrics = MetricsCSV(path, first_step=rows)
    metrics.log_metrics(values_of(rows), rows)
    metrics.flush()  # the first row of a process checks the file

    def log(step: int) -> None:
        metrics.log_metrics(values_of(step), step)

    return log


def rewritten(path: Path, rows: int) -> Callable[[int], None]:
    """Logs a row by writing all rows anew, from memory."""
    kept = {step: values_of(step) for step in range(rows + 1)}

    def log(step: int) -> None:
        kept[step] = values_of(step)
        with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["step", *values_of(0)])
            writer.writeheader()
            writer.writerows({"step": step, **row} for step, row in kept.items())

    return log


def write_rows(path: Path, rows: int) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["step", *sorted(values_of(0))])
        writer.writeheader()
        writer.writerows({"step": step, **values_of(step)} for step in range(rows))


def seconds_per_row(log: Callable[[int], None], first: int, repetitions: int) -> float:
    def seconds() -> Iterator[float]:
        for step in range(first, first + repetitions):
            start = time.perf_counter()
            log(step)
            yield time.perf_counter() - start

    return median(seconds())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[0, 10_000, 200_000])
    parser.add_argument("--name", default="metrics", help="of the files below benchmarks/results")
    arguments = parser.parse_args()
    table: list[Row] = []
    for name, start, repetitions in (("igpt: appended", appended, 200), ("all rows written anew", rewritten, 5)):
        row: Row = {"metrics.csv": name}
        for rows in arguments.rows:
            with TemporaryDirectory() as folder:
                path = Path(folder) / "metrics.csv"
                write_rows(path, rows)
                log = start(path, rows)
                row[f"ms at {rows:,} rows"] = round(1e3 * seconds_per_row(log, rows + 1, repetitions), 3)
        table.append(row)
    notes = f"Medians of one row, which has {len(NAMES)} values, in the system's folder for temporary files."
    write_table(arguments.name, "Milliseconds per logged row", table, notes)


if __name__ == "__main__":
    main()
