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
    if is_held(run.lock) and not killed_by_slurm(run):
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
    """What is recorded of a job of a sweep; empty if the run is none."""
    return run.job() | killed_by_slurm(run)


def killed_by_slurm(run: RunDirectory) -> dict[str, Any]:
    """What the command of the sweep recorded of a job that SLURM ended before it could record this itself; empty if it
    did not, or if the job was started again since.
    """
    job = run.job()
    if job.get("status") != "running" or "slurm" not in job:
        return {}
    records = (parent / "slurm" / job["slurm"] / "job.json" for parent in run.path.absolute().parents)
    record = next((file for file in records if file.exists()), None)  # in the directory of the sweep
    if record is None or (run.lock.exists() and run.lock.stat().st_mtime > record.stat().st_mtime):
        return {}
    ended = read_job(record.parent)
    return ended if ended.get("status") == "failed" else {}


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
