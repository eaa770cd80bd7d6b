"""What became of a run, from the files in its directory."""

from __future__ import annotations

import json
from typing import Any

from igpt.metrics_file import last_step
from igpt.run_directory import RunDirectory, read_job
from igpt.run_lock import is_held


def status_of(run: RunDirectory) -> str:
    """One of running, finished, failed, pruned, refused, and interrupted, which may be resumed.

    A run is running if a process holds its lock, or may hold it, as one on another host. It is finished if it has a
    summary of all of its steps. Only jobs of sweeps record that they were pruned, or refused since another run
    is there.
    """
    if is_held(run.lock):
        return "running"
    recorded = str(job_of(run).get("status"))
    if recorded in ("pruned", "refused"):
        return recorded
    if is_summarized(run):
        return "finished"
    return "failed" if recorded == "failed" or run.error.exists() else "interrupted"


def error_of(run: RunDirectory) -> str | None:
    """Why a run that has failed did so."""
    if run.error.exists():
        return run.error.read_text(encoding="utf-8").strip()
    return job_of(run).get("error")


def job_of(run: RunDirectory) -> dict[str, Any]:
    """What is recorded of a job of a sweep; empty if the run is none. Of a job that SLURM killed before it could record
    this itself, with what the command of the sweep recorded.
    """
    job = run.job()
    if job.get("status") != "running" or "slurm" not in job:
        return job
    records = [parent / "slurm" / job["slurm"] for parent in run.path.parents]  # in the directory of the sweep
    ended = next((read_job(record) for record in records if record.is_dir()), {})
    return job | ended if ended.get("status") == "failed" else job


def is_summarized(run: RunDirectory) -> bool:
    """Whether the run has a summary, and was not trained further since."""
    steps = summarized_steps(run)
    return steps > 0 and last_step(run.metrics) < steps


def summarized_steps(run: RunDirectory) -> int:
    """The number of steps that the summary of a run is about; 0 if there is none."""
    try:
        return int(json.loads(run.summary.read_text(encoding="utf-8"))["steps"])
    except (OSError, ValueError, KeyError):
        return 0
