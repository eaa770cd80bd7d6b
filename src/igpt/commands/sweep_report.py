"""What a sweep found: sweep.csv, sweep.png and one line about the best job, with every launcher and sweeper."""

from __future__ import annotations

import atexit
import csv
import functools
import json
import logging
import math
import os
import re
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from igpt.errors import IgptError
from igpt.files import atomic_path
from igpt.run import RunDirectory

log = logging.getLogger(__name__)

Row = dict[str, Any]

RECORD = "job.json"  # what a job leaves in its run directory for the table


class SweepReport(Callback):
    """Each job writes down how it ended, where it ran; the sweep's own process makes the table of what it finds.

    A failed job says why, and counts as one without a value, so that the sweeper goes on with the others.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        if "optuna" in config.hydra.sweeper._target_ and find_spec("optuna") is None:
            sys.exit("Error: hydra/sweeper=tpe needs the extra 'sweep': pip install 'igpt[sweep]'.")
        Path(config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)  # Optuna's study is in it before any job
        self._at_exit = functools.partial(report, Path(config.hydra.sweep.dir), config.monitor, config.monitor_mode)
        atexit.register(self._at_exit)  # after Ctrl-C, and where a launcher stops at an error

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        if _is_mine(config):
            (Path(config.hydra.runtime.output_dir) / RECORD).unlink(missing_ok=True)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        if config.hydra.mode != RunMode.MULTIRUN:
            return
        row: Row = {"status": "finished", "overrides": list(job_return.overrides or ())}
        run = RunDirectory(Path(config.hydra.runtime.output_dir))
        row |= reached(run, config.monitor, config.monitor_mode)
        if job_return.status == JobStatus.FAILED:
            error = job_return._return_value
            foreseen = isinstance(error, IgptError)
            log.error("This job failed: %s", error or repr(error), exc_info=None if foreseen else error)
            row |= {"status": "failed", "error": " ".join((str(error) or repr(error)).split())}
            job_return.status, job_return.return_value = JobStatus.COMPLETED, None
        if _is_mine(config):
            with atomic_path(run.path / RECORD) as temporary:
                temporary.write_text(json.dumps(row, indent=2) + "\n")

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        atexit.unregister(self._at_exit)
        if not self._at_exit():
            sys.exit("Error: no job of the sweep gave a result.")


def report(folder: Path, monitor: str, mode: str) -> bool:
    """Write the table and the figure of a sweep, and say which job was best; False if none was."""
    rows = sweep_rows(folder)
    write_table(rows, folder / "sweep.csv")
    ranked = rank(rows, monitor, mode)
    print(f"{len(ranked)} of {len(rows)} jobs gave a result; the table is {folder / 'sweep.csv'}")
    if ranked:
        draw(rows, ranked, monitor, folder / "sweep.png")
        best = ranked[0]
        print(f"Best: {monitor} {best[monitor]:.4f} in {best['run']}, {' '.join(best['changed']) or 'the only job'}")
    return bool(ranked)


def best_value(metrics: Path, name: str, mode: str) -> float | None:
    """The best value of a column of metrics.csv, or None if it has none."""
    if not metrics.exists():
        return None
    with open(metrics, newline="", encoding="utf-8") as file:
        values = [float(row[name]) for row in csv.DictReader(file) if row.get(name)]
    return _best(mode)([v for v in values if math.isfinite(v)], default=None)


def sweep_rows(folder: Path) -> list[Row]:
    """One row a job below the sweep's folder: how it ended, its overrides, its best values, its run directory.

    `changed` are the overrides in which the jobs differ.
    """
    rows = []
    for file in sorted(folder.rglob(".hydra/overrides.yaml"), key=lambda f: _in_number_order(str(f))):
        run = file.parent.parent
        row: Row = {"status": "unfinished", "overrides": list(OmegaConf.load(file))}
        if (run / RECORD).exists():
            row |= json.loads((run / RECORD).read_text())
        rows.append({"job": str(run.relative_to(folder)), **row, "run": str(run)})
    shared = set.intersection(*(set(row["overrides"]) for row in rows)) if rows else set()
    for row in rows:
        row["changed"] = [o for o in row["overrides"] if o not in shared]
    return rows


def write_table(rows: Sequence[Row], path: Path) -> None:
    """The table of the jobs, whole or not at all."""
    known = ("job", "status", "changed", "run", "error", "overrides")
    numbers = sorted({name for row in rows for name in row} - set(known))
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, (*known[:3], *numbers, *known[3:]))
        writer.writeheader()
        writer.writerows({k: " ".join(v) if isinstance(v, list) else v for k, v in row.items()} for row in rows)


def rank(rows: Sequence[Row], monitor: str, mode: str) -> list[Row]:
    """The jobs that finished with a value, the best one first."""
    finished = [row for row in rows if row["status"] == "finished" and row.get(monitor) is not None]
    return sorted(finished, key=lambda row: row[monitor], reverse=mode == "max")


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


def reached(run: RunDirectory, monitor: str, mode: str) -> Row:
    """The best values a job reached: of what is monitored, of accuracy, of the online probe of any layer."""
    found = {monitor: best_value(run.metrics, monitor, mode)}
    if not run.metrics.exists():
        return found
    with open(run.metrics, newline="", encoding="utf-8") as file:
        columns = next(csv.reader(file), [])
    probes = [best_value(run.metrics, c, "max") for c in columns if c.startswith("probe/")]
    found["val/accuracy"] = best_value(run.metrics, "val/accuracy", "max")
    found["probe/accuracy"] = max((p for p in probes if p is not None), default=None)
    return {monitor: found.pop(monitor)} | {name: value for name, value in found.items() if value is not None}


def _is_mine(config: DictConfig) -> bool:
    """Whether this is a sweep's job, and the first of its processes if SLURM started several."""
    return config.hydra.mode == RunMode.MULTIRUN and os.environ.get("SLURM_PROCID", "0") == "0"


def _best(mode: str) -> Callable[..., Any]:
    return max if mode == "max" else min


def _in_number_order(text: str) -> list[tuple[int, str]]:
    """A sort key that puts 2 before 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text)]


def _numbers(texts: Sequence[str]) -> list[float]:
    """The numbers that the texts are; none, if one of them is something else."""
    try:
        return [float(text) for text in texts]
    except ValueError:
        return []
