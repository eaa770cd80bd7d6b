"""The jobs of a sweep, read from the files in its directory: overrides, status, latest step, best values."""

from __future__ import annotations

import math
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from igpt.metrics_file import read_columns, read_rows
from igpt.run_directory import RunDirectory, read_job
from igpt.run_lock import is_alive

Row = dict[str, Any]

LOSS = "train/loss"


def sweep_rows(folder: Path) -> list[Row]:
    """One row per job of the sweep in `folder`: status, overrides, best values, run directory.

    A job that is pending in SLURM's queue, or that failed before it started, has no run directory; its SLURM job ID
    identifies it. `changed` are the overrides in which the jobs differ.
    """
    submitted = folder / "slurm"
    runs = [file.parent for file in folder.rglob("job.json") if submitted not in file.parents]
    rows = [run_row(folder, run) for run in sorted(runs, key=lambda run: natural_key(str(run)))]
    started = {row.get("slurm") for row in rows}
    pending = sorted(submitted.glob("*/job.json"), key=lambda file: natural_key(str(file)))
    rows += [
        {"job": "", "overrides": [], **read_job(file.parent), "slurm": file.parent.name, "run": ""}
        for file in pending
        if file.parent.name not in started
    ]
    shared = set.intersection(*(set(row["overrides"]) for row in rows)) if rows else set()
    for row in rows:
        row["changed"] = [o for o in row["overrides"] if o not in shared]
    return rows


def run_row(folder: Path, run: Path) -> Row:
    """The row of a job that has a run directory."""
    record = read_job(run)
    host, process, _, _ = (record.pop(name, None) for name in ("host", "process", "varied", "sweep"))
    if record.get("status") == "running":
        ended = read_job(folder / "slurm" / record.get("slurm", "none"))
        if ended.get("status") == "failed":
            record |= ended  # the job was killed before it could record this itself
        elif "slurm" not in record and host == socket.gethostname() and not _is_other_running_process(process):
            record["status"] = "interrupted"
    return {"job": str(run.relative_to(folder)), "status": "running", "overrides": [], **record, "run": str(run)}


def best_value(metrics: Path, name: str, mode: str) -> float | None:
    """The best value of a column of metrics.csv; None if it has no value."""
    values = [float(row[name]) for row in read_rows(metrics) if row.get(name)]
    best: Callable[..., float | None] = max if mode == "max" else min
    return best([v for v in values if math.isfinite(v)], default=None)


def best_values(run: RunDirectory, monitor: str, mode: str) -> Row:
    """A job's best values: of the monitored metric, of accuracy, and of the online probe (over all layers)."""
    found = {monitor: best_value(run.metrics, monitor, mode)}
    probes = [best_value(run.metrics, c, "max") for c in read_columns(run.metrics) if c.startswith("probe/")]
    found["val/accuracy"] = best_value(run.metrics, "val/accuracy", "max")
    found["probe/accuracy"] = max((p for p in probes if p is not None), default=None)
    return {monitor: found.pop(monitor)} | {name: value for name, value in found.items() if value is not None}


def latest_step(run: RunDirectory) -> Row:
    """The number of steps a job has done, and its latest training loss; empty before the first."""
    latest: Row = {}
    for row in read_rows(run.metrics):
        if row.get(LOSS):
            latest = {"step": int(row["step"]) + 1, LOSS: float(row[LOSS])}
    return latest


def format_number(value: float | None) -> str:
    """A value in a table, with four decimal places; None is empty."""
    return "" if value is None else f"{value:.4f}"


def _is_other_running_process(process: int | None) -> bool:
    """Whether this is a running process of this machine, other than the calling one."""
    return process is not None and process != os.getpid() and is_alive(process)


def natural_key(text: str) -> list[tuple[int, str]]:
    """A sort key that puts 2 before 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text)]
