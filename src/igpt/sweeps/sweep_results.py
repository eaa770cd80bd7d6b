"""The results of a sweep: sweep.csv, sweep.png, a printed table and the best job."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from igpt.console import table_text
from igpt.files import write_rows
from igpt.run_directory import RunDirectory
from igpt.stored_run import StoredRun
from igpt.sweeps.job_records import Row, format_number, sweep_rows
from igpt.units import counted

WITH_RESULT = ("finished", "pruned")


def write_results(folder: Path, monitor: str, mode: str) -> list[Row]:
    """Write the table and the figure of a sweep, print the table and the best job, and return the table's rows."""
    rows = [with_best_values(row, monitor) for row in sweep_rows(folder)]
    write_table(rows, folder / "sweep.csv")
    ranked = rank(rows, monitor, mode)
    if rows:
        print(jobs_table(rows, monitor))
    print(f"{len(ranked)} of {counted(len(rows), 'job')} produced a result; the table is {folder / 'sweep.csv'}")
    if ranked:
        plot(rows, ranked, monitor, folder / "sweep.png")
    if any(row.get("full_train") for row in ranked):
        print("The jobs are not ranked, because they trained on the validation images.")
    elif ranked:
        best = ranked[0]
        print(f"Best: {monitor} {best[monitor]:.4f} in {best['run']}, {' '.join(best['changed']) or 'the only job'}")
    return rows


def with_best_values(row: Row, monitor: str) -> Row:
    """The row of a job with its best values, if it has a run."""
    run = StoredRun(RunDirectory(Path(row["run"])))
    return {**row, monitor: run.best_of(monitor), **run.best_values()} if row["run"] and run.config else row


def jobs_table(rows: Sequence[Row], monitor: str) -> str:
    """The jobs for a person to read: status, best value, overrides in which they differ, and why one failed."""
    return table_text(
        ("job", "status", monitor, "changed", "error"),
        [
            (
                row["job"] or row["slurm"],
                row["status"],
                format_number(row.get(monitor)),
                " ".join(row["changed"]),
                row.get("error", ""),
            )
            for row in rows
        ],
    )


def write_table(rows: Sequence[Row], path: Path) -> None:
    """Write the table of the jobs as CSV."""
    known = ("job", "status", "changed", "run", "error", "overrides")
    others = sorted({name for row in rows for name in row} - set(known))
    names = (*known[:3], *others, *known[3:])
    write_rows([{name: as_text(row.get(name)) for name in names} for row in rows], path)


def as_text(value: Any) -> Any:
    """A value of the table; a list as its parts with spaces between them."""
    return " ".join(value) if isinstance(value, list) else value


def rank(rows: Sequence[Row], monitor: str, mode: str) -> list[Row]:
    """The jobs with a result, the best one first."""
    ended = [row for row in rows if row["status"] in WITH_RESULT and row.get(monitor) is not None]
    return sorted(ended, key=lambda row: row[monitor], reverse=mode == "max")


def plot(rows: Sequence[Row], ranked: Sequence[Row], monitor: str, path: Path) -> None:
    """One panel per varied key: the monitored metric against the key's value."""
    from matplotlib.figure import Figure

    from igpt import figures

    values: list[dict[str, str]] = [dict(o.split("=", 1) for o in row["changed"] if "=" in o) for row in ranked]
    if not any(values):
        values = [{"job": row["job"]} for row in ranked]
    keys = sorted({key for row in values for key in row})
    figure = Figure(figsize=(1 + 3.2 * len(keys), 3.6), dpi=120, layout="constrained")
    for axes, key in zip(figure.subplots(1, len(keys), squeeze=False, sharey=True)[0], keys, strict=True):
        points = [(v[key], row[monitor]) for v, row in zip(values, ranked, strict=True) if key in v]
        chosen, best = zip(*points, strict=True)
        numbers = _numbers(chosen)
        if numbers and min(numbers) > 0 and max(numbers) >= 10 * min(numbers):
            axes.set_xscale("log")
        axes.plot(numbers or chosen, best, "o", alpha=0.8)
        axes.axhline(ranked[0][monitor], ls=":", color="gray")
        axes.set(xlabel=key)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel(monitor)
    failed = len(rows) - len(ranked)
    figure.suptitle(counted(len(ranked), "job") + (f", {failed} more without a result" if failed else ""), fontsize=9)
    figures.save(figures.render(figure), path)


def _numbers(texts: Sequence[str]) -> list[float]:
    """The texts as numbers; an empty list if one of them is not a number."""
    try:
        return [float(text) for text in texts]
    except ValueError:
        return []
