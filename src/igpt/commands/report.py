"""igpt-report: runs as one HTML file that needs no server."""

from __future__ import annotations

from collections.abc import Sequence
from os.path import commonpath
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from igpt.configuration.app import run_app
from igpt.errors import IgptError
from igpt.files import expand_user
from igpt.run_directory import RunDirectory, find_run
from igpt.sweeps.job_records import Row, sweep_rows, sweeps_in
from igpt.sweeps.run_records import run_directories
from igpt.units import counted

if TYPE_CHECKING:
    from igpt.reporting.reported_run import ReportedRun

REPORT = "report.html"


def main() -> None:
    """The console script."""
    run_app(report, "report")


def report(config: DictConfig) -> None:
    """Write the report of a run, of several, or of the jobs of a sweep."""
    from igpt.reporting.page import write_report

    output = None if config.output is None else output_file(config.output)
    named = [config.run] if isinstance(config.run, str) else list(config.run)
    folders = [folder_of(each) for each in named]
    runs: dict[Path, list[str]] = {}  # with the overrides in which the jobs of a sweep differ
    notes: list[str] = []
    for folder in folders:
        found, of_jobs = runs_in(folder)
        runs |= {path.resolve(): changed or runs.get(path.resolve(), []) for path, changed in found.items()}
        notes += of_jobs
    if not runs:
        raise IgptError(f"No job has begun yet, so there is nothing to report. {' '.join(notes)}")
    title = "/".join(folders[0].resolve().parts[-2:]) if len(folders) == 1 else counted(len(runs), "run")
    output = output or place(folders) / REPORT
    write_report(described(runs), title, output, notes)
    print(f"The report is {output}")


def output_file(output: str) -> Path:
    """The file that `output` names. A file of another kind, such as one of the run, must not be replaced."""
    file = expand_user(output)
    if file.is_dir():
        raise IgptError(f"output is {file}, which is a folder; give a file, for example {file / REPORT}.")
    if file.suffix not in (".html", ".htm"):
        raise IgptError(f"output is {file}; give a file that ends in .html, for example {REPORT}.")
    return file


def folder_of(run: str) -> Path:
    """The folder that `run` names. The name of a model is refused, since it comes without curves."""
    folder = find_run(run).path
    if not folder.exists():
        raise IgptError(
            f"There is no folder {run}, and a model by name has no report; give a run directory of igpt-train, or the "
            "directory of a sweep."
        )
    return folder


def runs_in(folder: Path) -> tuple[dict[Path, list[str]], list[str]]:
    """The run directories in a folder with the overrides of each, and sentences about jobs without results.

    The folder is a run itself, or it contains runs, the jobs of sweeps among them.
    """
    if is_run(folder):
        return {folder: []}, []
    rows = [(sweep, row) for sweep in sweeps_in(folder) for row in sweep_rows(sweep)]
    changed = {Path(row["run"]): row["changed"] for _, row in rows if row["run"]}
    notes = [sentence for sweep, row in rows if (sentence := problem_of(row, sweep.relative_to(folder)))]
    others = sorted({run.path for run in run_directories(folder)} - changed.keys())
    found = {run: changed.get(run, []) for run in (*changed, *others) if is_run(run)}
    if not found and not notes:
        raise IgptError(
            f"There is no run in {folder}, so there is nothing to report; give a run directory of igpt-train, or the "
            "directory of a sweep."
        )
    return found, notes


def is_run(folder: Path) -> bool:
    """Whether igpt-train has written something to report into a folder."""
    run = RunDirectory(folder)
    return run.config.exists() or run.metrics.exists()


def problem_of(row: Row, sweep: Path) -> str | None:
    """A sentence about a job of a sweep that has not started or that failed."""
    job = f"Job {sweep / (row['job'] or row['slurm'])}"
    if "error" in row:
        return f"{job} {row['status']}: {row['error']}"
    return None if row["run"] else f"{job} is {row['status']}: {' '.join(row['changed'])}"


def place(folders: Sequence[Path]) -> Path:
    """Where the report is written by default: in the folder if there is one, otherwise in the current one."""
    return folders[0] if len(folders) == 1 else Path()


def described(runs: dict[Path, list[str]]) -> list[ReportedRun]:
    """The runs with their names: the paths below the folder that contains all of them."""
    from igpt.reporting.reported_run import ReportedRun

    common = commonpath([path.parent for path in runs])
    return [ReportedRun(str(path.relative_to(common)), RunDirectory(path), changed) for path, changed in runs.items()]


if __name__ == "__main__":
    main()
