"""The jobs of a sweep, read from the files in its directory: overrides, status, latest step."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from igpt.run_directory import RunDirectory, read_job
from igpt.run_status import job_of, status_of
from igpt.stored_run import StoredRun

Row = dict[str, Any]

LOSS = "train/loss"
COMMAND_OVERRIDES = "overrides.json"  # in the directory of a sweep: the overrides of its command


def sweeps_in(folder: Path) -> list[Path]:
    """The directories of sweeps in a folder and below it; the folder itself if there is none."""
    return sorted(file.parent for file in folder.rglob(COMMAND_OVERRIDES)) or [folder]


def sweep_rows(folder: Path) -> list[Row]:
    """One row per job of the sweep in `folder`: status, overrides, run directory.

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
    """The row of a job that has a directory."""
    record = {name: value for name, value in job_of(RunDirectory(run)).items() if name not in ("varied", "sweep")}
    status = status_of(RunDirectory(run))
    if status != record.get("status"):
        record.pop("error", None)  # the run was resumed since
    return {"job": str(run.relative_to(folder)), "overrides": [], **record, "status": status, "run": str(run)}


def latest_step(run: StoredRun) -> Row:
    """The number of steps a job has done, and its latest training loss; empty before the first."""
    if LOSS not in run.series:
        return {}
    step, loss = run.series[LOSS][-1]
    return {"step": step + 1, LOSS: loss}


def format_number(value: float | None) -> str:
    """A value in a table, with four decimal places; None is empty."""
    return "" if value is None else f"{value:.4f}"


def natural_key(text: str) -> list[tuple[int, str]]:
    """A sort key that puts 2 before 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text)]
