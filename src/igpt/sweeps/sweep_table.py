"""What a sweep found: sweep.csv, sweep.png, a table and the best job, with every launcher and sweeper."""

from __future__ import annotations

import atexit
import csv
import functools
import json
import logging
import os
import shutil
import socket
import sys
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from igpt.cluster.ranks import is_main_process
from igpt.console import table_text
from igpt.errors import IgptError, RunTakenError
from igpt.files import atomic_path
from igpt.run_directory import RunDirectory, read_job, write_job
from igpt.run_lock import locked
from igpt.sweeps.job_records import Row, number, reached, sweep_rows

log = logging.getLogger(__name__)


class SweepReport(Callback):
    """Each job writes down how it stands, where it runs; the sweep's own process makes the table of what it finds.

    A failed job says why, and counts as one without a value, so that the sweeper goes on with the others. One process
    at a time sweeps into a folder.
    """

    def __getstate__(self) -> dict[str, Any]:
        """Launchers send callbacks to the processes of their jobs, which hold no lock and make no table."""
        return {}

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        if "optuna" in config.hydra.sweeper._target_ and find_spec("optuna") is None:
            sys.exit("Error: hydra/sweeper=tpe needs the extra 'sweep': pip install 'igpt[sweep]'.")
        if "optuna" in config.hydra.sweeper._target_ and OmegaConf.select(config, "data.source.full_train"):
            sys.exit(
                "Error: hydra/sweeper=tpe searches by validation images, which data.source.full_train=true trains on."
            )
        folder = folder_of_sweep(config)
        folder.mkdir(parents=True, exist_ok=True)  # Optuna's study is in it before any job
        lock = ExitStack()
        try:
            lock.enter_context(locked(folder / "sweep.lock") if is_main_process() else nullcontext())
        except RunTakenError as error:
            sys.exit(f"Error: {error}")
        shutil.rmtree(folder / REFUSED, ignore_errors=True)
        (folder / ASKED_FOR).write_text(json.dumps(list(config.hydra.overrides.task)))
        self._at_exit = functools.partial(report_and_unlock, lock, folder, config.monitor, config.monitor_mode)
        atexit.register(self._at_exit)  # after Ctrl-C, and where a launcher stops at an error

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        if not _is_mine(config):
            return
        run = RunDirectory(Path(config.hydra.runtime.output_dir))
        on_slurm = {}
        if _on_slurm():
            on_slurm["slurm"] = str(config.hydra.job.id)
            submitted = folder_of_sweep(config) / "slurm" / on_slurm["slurm"]
            write_job(submitted, **{**read_job(submitted), "status": "begun"})  # also after a failure, by requeue
        self._before = before = run.job()
        status = "pruned" if before.get("status") == "pruned" else "running"
        write_job(  # anew: what an earlier start said of its end is over
            run.path, status=status, overrides=list(config.hydra.overrides.task), varied=varied(config),
            sweep=folder_of_sweep(config).name, starts=before.get("starts", 0) + 1,
            host=socket.gethostname(), process=os.getpid(), **on_slurm,
        )  # fmt: skip

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        if config.hydra.mode != RunMode.MULTIRUN:
            return
        run = RunDirectory(Path(config.hydra.runtime.output_dir))
        failed, error = job_return.status == JobStatus.FAILED, job_return._return_value
        refused = failed and isinstance(error, RunTakenError)
        # Of a refused job, what lies in its folder is another run's.
        ended: Row = {} if refused else reached(run, config.monitor, config.monitor_mode)
        if OmegaConf.select(config, "data.source.full_train"):
            ended["full_train"] = True
        if failed:
            foreseen = isinstance(error, IgptError)
            log.error("This job failed: %s", error or repr(error), exc_info=None if foreseen else error)
            ended |= {
                "status": "refused" if refused else "failed",
                "error": " ".join((str(error) or repr(error)).split()),
            }
            job_return.status, job_return.return_value = JobStatus.COMPLETED, None
        elif run.job().get("status") == "running":
            ended["status"] = "finished"
        if _is_mine(config) and refused:
            self._note_refusal(config, run, ended)
        elif _is_mine(config):
            run.note_job(**ended)
        if failed and _on_slurm():
            sys.exit(1)  # so that SLURM hears of it, too

    def _note_refusal(self, config: DictConfig, run: RunDirectory, ended: Row) -> None:
        """The record of a refused job lies apart: that in its folder is another run's, and becomes what it was."""
        record = {**run.job(), "starts": 1, **ended}
        write_job(folder_of_sweep(config) / REFUSED / config.hydra.sweep.subdir, **record)
        if self._before:
            write_job(run.path, **self._before)
        else:
            (run.path / "job.json").unlink()

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        atexit.unregister(self._at_exit)
        rows = self._at_exit()
        failed = [row for row in rows if row["status"] not in WITH_RESULT]
        if len(failed) == len(rows):
            sys.exit("Error: no job of the sweep gave a result.")
        if failed:
            sys.exit(f"Error: {len(failed)} of {len(rows)} jobs of the sweep gave no result; the table says why.")


WITH_RESULT = ("finished", "pruned")
ASKED_FOR = "overrides.json"  # of the sweep's command, in its folder
REFUSED = "refused"  # records of jobs whose folders hold other runs, in the sweep's folder


def folder_of_sweep(config: DictConfig) -> Path:
    """The sweep's folder, wherever the process that asks works by now."""
    return Path(config.hydra.runtime.cwd, config.hydra.sweep.dir)


def varied(config: DictConfig) -> list[str]:
    """The overrides of a job that the sweep chose: those that do not stand in its command as they are."""
    file = folder_of_sweep(config) / ASKED_FOR
    shared = json.loads(file.read_text()) if file.exists() else []
    return [override for override in config.hydra.overrides.task if override not in shared]


def report_and_unlock(lock: ExitStack, folder: Path, monitor: str, mode: str) -> list[Row]:
    """The last that a sweep's process does in its folder: the report, and the end of its lock."""
    with lock:
        return report(folder, monitor, mode)


def report(folder: Path, monitor: str, mode: str) -> list[Row]:
    """Write the table and the figure of a sweep, print them for a person, say which job was best; the table's rows."""
    rows = sweep_rows(folder)
    write_table(rows, folder / "sweep.csv")
    ranked = rank(rows, monitor, mode)
    if rows:
        print(jobs_table(rows, monitor))
    print(f"{len(ranked)} of {len(rows)} jobs gave a result; the table is {folder / 'sweep.csv'}")
    if ranked:
        draw(rows, ranked, monitor, folder / "sweep.png")
    if any(row.get("full_train") for row in ranked):
        print("No job is called the best one, since their validation images were trained on.")
    elif ranked:
        best = ranked[0]
        print(f"Best: {monitor} {best[monitor]:.4f} in {best['run']}, {' '.join(best['changed']) or 'the only job'}")
    return rows


def jobs_table(rows: Sequence[Row], monitor: str) -> str:
    """The jobs for a person to read: status, best value, overrides in which they differ, and why one failed."""
    return table_text(
        ("job", "status", monitor, "changed", "error"),
        [
            (
                row["job"] or row["slurm"],
                row["status"],
                number(row.get(monitor)),
                " ".join(row["changed"]),
                row.get("error", ""),
            )
            for row in rows
        ],
    )


def write_table(rows: Sequence[Row], path: Path) -> None:
    """The table of the jobs, whole or not at all."""
    known = ("job", "status", "changed", "run", "error", "overrides")
    others = sorted({name for row in rows for name in row} - set(known))
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, (*known[:3], *others, *known[3:]))
        writer.writeheader()
        writer.writerows({k: " ".join(v) if isinstance(v, list) else v for k, v in row.items()} for row in rows)


def rank(rows: Sequence[Row], monitor: str, mode: str) -> list[Row]:
    """The jobs that ended with a value, the best one first."""
    ended = [row for row in rows if row["status"] in WITH_RESULT and row.get(monitor) is not None]
    return sorted(ended, key=lambda row: row[monitor], reverse=mode == "max")


def draw(rows: Sequence[Row], ranked: Sequence[Row], monitor: str, path: Path) -> None:
    """One panel for each key that was varied: what is monitored, against the key's value."""
    from matplotlib.figure import Figure

    from igpt import figures

    values: list[dict[str, str]] = [dict(o.split("=", 1) for o in row["changed"] if "=" in o) for row in ranked]
    keys = sorted({key for row in values for key in row}) or ["job"]
    figure = Figure(figsize=(1 + 3.2 * len(keys), 3.6), dpi=120, layout="constrained")
    for axes, key in zip(figure.subplots(1, len(keys), squeeze=False, sharey=True)[0], keys, strict=True):
        chosen = [v.get(key) or row["job"] for v, row in zip(values, ranked, strict=True)]
        numbers = _numbers(chosen)
        if numbers and min(numbers) > 0 and max(numbers) >= 10 * min(numbers):
            axes.set_xscale("log")
        axes.plot(numbers or chosen, [row[monitor] for row in ranked], "o", alpha=0.8)
        axes.axhline(ranked[0][monitor], ls=":", color="gray")
        axes.set(xlabel=key)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel(monitor)
    failed = len(rows) - len(ranked)
    figure.suptitle(f"{len(ranked)} jobs" + (f", {failed} more without a result" if failed else ""), fontsize=9)
    figures.save(figures.render(figure), path)


def _is_mine(config: DictConfig) -> bool:
    """Whether this is a sweep's job, and the first of its processes."""
    return config.hydra.mode == RunMode.MULTIRUN and is_main_process()


def _on_slurm() -> bool:
    """Whether submitit runs this process as a job."""
    return os.environ.get("SUBMITIT_EXECUTOR") == "slurm"


def _numbers(texts: Sequence[str]) -> list[float]:
    """The numbers that the texts are; none, if one of them is something else."""
    try:
        return [float(text) for text in texts]
    except ValueError:
        return []
