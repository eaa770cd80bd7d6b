"""igpt-jobs: the status of the jobs of a sweep, while they are pending or running, or after they ended."""

from __future__ import annotations

import getpass
import subprocess
from pathlib import Path

from omegaconf import DictConfig

from igpt.configuration.app import run_app
from igpt.configuration.stored import configuration_of
from igpt.console import table_text
from igpt.errors import IgptError
from igpt.files import expand_user
from igpt.run_directory import RunDirectory
from igpt.sweeps.job_records import LOSS, Row, best_value, format_number, latest_step, sweep_rows
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
    columns = ("job", "status", "SLURM", "step", LOSS, monitor[0], "restarts", "changed", "run")
    print(table_text(columns, [line(row, monitor, states) for row in rows]))
    for row in rows:
        if "error" in row:
            print(f"Job {row['job'] or row['slurm']}: {row['error']}")


def line(row: Row, monitor: tuple[str, str], states: dict[str, str]) -> tuple[str, ...]:
    """The cells of a job's line."""
    job = row.get("slurm", "")
    state = f"{job} {states.get(job, '')}".strip()
    started = row["run"] and RunDirectory(Path(row["run"])).config.exists()
    if not started:
        return (row["job"], row["status"], state, "", "", "", "", " ".join(row["changed"]), row["run"])
    run = RunDirectory(Path(row["run"]))
    latest = latest_step(run)
    best = best_value(run.metrics, *monitor)
    step = f"{latest.get('step', 0)}/{configuration_of(run).trainer.max_steps}"
    restarts = str(row.get("starts", 1) - 1)
    numbers = (step, format_number(latest.get(LOSS)), format_number(best), restarts)
    return (row["job"], row["status"], state, *numbers, " ".join(row["changed"]), row["run"])


def newest_sweep() -> Path:
    """The newest sweep below outputs/, by the time in the name of its directory."""
    folders = sorted(Path("outputs").glob("*/*_sweep*"), key=lambda folder: folder.name)
    if not folders:
        raise IgptError("There is no sweep below outputs/ here; give the directory of a sweep, sweep=DIR.")
    return folders[-1]


def monitored(rows: list[Row]) -> tuple[str, str]:
    """The metric that the jobs are compared by, and whether its maximum (max) or minimum (min) is best."""
    runs = [run for run in (RunDirectory(Path(row["run"])) for row in rows if row["run"]) if run.config.exists()]
    if not runs:
        return "val/nats_per_token", "min"
    config = configuration_of(runs[0])
    return config.monitor, config.monitor_mode


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
