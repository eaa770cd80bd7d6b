"""igpt-jobs: the status of the jobs of a sweep, while they are pending or running, or after they ended."""

from __future__ import annotations

import getpass
import subprocess
from pathlib import Path

from omegaconf import DictConfig

from igpt.configuration.app import run_app
from igpt.console import table_text
from igpt.errors import IgptError
from igpt.files import expand_user
from igpt.run_directory import RunDirectory
from igpt.stored_run import StoredRun
from igpt.sweeps.job_records import LOSS, Row, format_number, latest_step, sweep_rows
from igpt.units import counted


def main() -> None:
    """The console script."""
    run_app(jobs, "jobs")


def jobs(config: DictConfig) -> None:
    """Print one line per job of the sweep."""
    folder = newest_sweep() if config.sweep is None else expand_user(config.sweep)
    rows = sweep_rows(folder)
    if not rows:
        raise IgptError(f"There is no job of a sweep in {folder}; give the directory of a sweep, sweep=DIR.")
    states = slurm_states() if any("slurm" in row for row in rows) else {}
    monitor = monitored(rows)
    print(f"{counted(len(rows), 'job')} in {folder}")
    columns = ("job", "status", "SLURM", "step", LOSS, monitor, "restarts", "changed", "run")
    print(table_text(columns, [line(row, monitor, states) for row in rows]))
    for row in rows:
        if "error" in row:
            print(f"Job {row['job'] or row['slurm']}: {row['error']}")


def line(row: Row, monitor: str, states: dict[str, str]) -> tuple[str, ...]:
    """The cells of a job's line."""
    job = row.get("slurm", "")
    state = f"{job} {states.get(job, '')}".strip()
    run = StoredRun(RunDirectory(Path(row["run"])))
    numbers: tuple[str, ...] = ("", "", "", "")
    if row["run"] and run.config:
        latest = latest_step(run)
        step = f"{latest.get('step', 0)}/{run.config['trainer']['max_steps']}"
        restarts = str(row.get("starts", 1) - 1)
        numbers = (step, format_number(latest.get(LOSS)), format_number(run.best_of(monitor)), restarts)
    return (row["job"], row["status"], state, *numbers, " ".join(row["changed"]), row["run"])


def newest_sweep() -> Path:
    """The newest sweep below outputs/, by the time in the name of its directory."""
    folders = sorted(Path("outputs").glob("*/*_sweep*"), key=lambda folder: folder.name)
    if not folders:
        raise IgptError("There is no sweep below outputs/ here; give the directory of a sweep, sweep=DIR.")
    return folders[-1]


def monitored(rows: list[Row]) -> str:
    """The metric by which the jobs are compared."""
    runs = (StoredRun(RunDirectory(Path(row["run"]))) for row in rows if row["run"])
    return next((run.monitor for run in runs if run.config), "val/nats_per_token")


def slurm_states() -> dict[str, str]:
    """The state of each of the user's jobs by its SLURM job ID; empty without SLURM."""
    names = ("--noheader", "--array", "--states=all", f"--user={getpass.getuser()}", "--format=%i|%T|%r")
    try:
        answer = subprocess.run(["squeue", *names], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    found = (text.split("|") for text in answer.stdout.splitlines())
    # A pending job has a reason, such as Resources.
    return {job: f"{state} ({reason})" if state == "PENDING" else state for job, state, reason in found}


if __name__ == "__main__":
    main()
