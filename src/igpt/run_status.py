"""What became of a run, from the files in its directory."""

from __future__ import annotations

import json

from igpt.metrics_file import last_step
from igpt.run_directory import RunDirectory
from igpt.run_lock import is_held


def status_of(run: RunDirectory) -> str:
    """One of running, finished, failed, pruned, and interrupted, which may be resumed.

    A run is running if a process holds its lock, or may hold it, as one on another host. It is finished if it has a
    summary of all of its steps. Only jobs of sweeps record that they were pruned.
    """
    if is_held(run.lock):
        return "running"
    recorded = str(run.job().get("status"))
    if recorded == "pruned":
        return recorded
    if is_summarized(run):
        return "finished"
    return "failed" if recorded == "failed" or run.error.exists() else "interrupted"


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
