"""What became of a run, from the files in its directory."""

from __future__ import annotations

from igpt.run_directory import RunDirectory
from igpt.run_lock import is_held


def status_of(run: RunDirectory) -> str:
    """One of training, finished, failed, pruned, and stopped, which may be resumed.

    A run is training if a process holds its lock, or may hold it, as one on another host. It is finished if it has a
    summary. Only jobs of sweeps record that they failed or were pruned.
    """
    if is_held(run.lock):
        return "training"
    recorded = str(run.job().get("status"))
    if recorded in ("failed", "pruned"):
        return recorded
    return "finished" if run.summary.exists() else "stopped"
