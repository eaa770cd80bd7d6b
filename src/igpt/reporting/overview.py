"""The results in a report: the main values of one run, and tables of runs and of probes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from igpt.files import printable
from igpt.reporting.reported_run import ReportedRun
from igpt.units import number_text, time_text

DIGITS = 4  # of results


@dataclass(frozen=True)
class Cell:
    """A cell of the table of runs: its text, and the number by which the table is sorted, if it is one."""

    text: str
    number: float | None = None


Table = tuple[list[str], list[list[Cell]]]  # the names of the columns, and the rows


def cards(run: ReportedRun) -> list[tuple[str, str, str]]:
    """The main values of a run: name, value, and standard error or unit."""
    summary = run.summary
    found = [("steps", run.progress, "")]
    if run.best is not None:
        found.append((f"best {run.monitor}", number(run.best), ""))
    for name in ("nats_per_token", "bits_per_dimension", "accuracy"):
        value = summary.get(f"test/{name}")
        error = summary.get("test/standard_error" if name == "nats_per_token" else f"test/{name}_standard_error")
        if isinstance(value, int | float):
            found.append((f"test/{name}", number(value), f"± {number(error, 2)}" if error is not None else ""))
    if run.probe_accuracy is not None:
        layer = run.probe_summary.get("probe/trained/layer")
        found.append(("probe, test accuracy", f"{100 * run.probe_accuracy:.1f}%", f"layer {layer}"))
    if "parameters" in summary:
        found.append(("parameters", f"{summary['parameters']:,}", ""))
    if "seconds" in summary:
        found.append(("training time", time_text(summary["seconds"]), ""))
    return found


def table_of_runs(runs: Sequence[ReportedRun]) -> Table:
    """The names of the columns, and a row of cells per run; columns without any value are left out."""
    keys = list(dict.fromkeys(override.partition("=")[0] for run in runs for override in run.overrides))
    monitors = list(dict.fromkeys(run.monitor for run in runs))
    columns: dict[str, list[Cell]] = {}
    for run in runs:
        chosen = dict(override.partition("=")[::2] for override in run.overrides)
        row = {
            "run": Cell(printable(run.name)),
            **{key: cell_of_text(chosen.get(key, "")) for key in keys},
            "status": Cell(run.status),
            "steps": Cell(run.progress, run.steps),
            **{f"best {name}": cell(run.best if name == run.monitor else None) for name in monitors},
            **{name: cell(run.summary.get(name)) for name in ("test/nats_per_token", "test/accuracy")},
            "probe, test accuracy": percent_cell(run.probe_accuracy),
            "training time": seconds_cell(run.summary.get("seconds")),
        }
        for name, value in row.items():
            columns.setdefault(name, []).append(value)
    columns = {name: cells for name, cells in columns.items() if any(c.text for c in cells)}
    return [printable(name) for name in columns], [list(row) for row in zip(*columns.values(), strict=True)]


def table_of_accuracies(rows: Sequence[Mapping[str, str]]) -> Table:
    """The rows of probe/accuracy.csv, with accuracies in per cent and their standard errors beside them."""
    names = [name for name in rows[0] if not name.endswith("_error")]
    return names, [[accuracy_cell(name, row) for name in names] for row in rows]


def table_of_few_labels(rows: Sequence[Mapping[str, str]]) -> Table:
    """The rows of probe/low_label.csv: test accuracies in per cent with their standard errors over the subsets of the
    labels, with a row for each kind of features and a column for each number of labels per class.
    """
    counts = list(dict.fromkeys(row["labels_per_class"] for row in rows))
    found = {(row["features"], row["labels_per_class"]): accuracy_cell("test_accuracy", row) for row in rows}
    kinds = dict.fromkeys(row["features"] for row in rows)
    names = ["features", *(f"{count} per class" for count in counts)]
    return names, [[Cell(printable(kind)), *(found[kind, count] for count in counts)] for kind in kinds]


def accuracy_cell(name: str, row: Mapping[str, str]) -> Cell:
    if "accuracy" not in name or not row[name]:
        return cell_of_text(row[name])
    error = f" ± {100 * float(row[f'{name}_error']):.1f}" if row.get(f"{name}_error") else ""
    return Cell(f"{100 * float(row[name]):.1f}{error}", float(row[name]))


def cell(value: Any) -> Cell:
    """The cell of a result; empty without one."""
    return Cell(number(value), float(value)) if isinstance(value, int | float) else Cell("")


def cell_of_text(text: str) -> Cell:
    """The cell of a text, which may be a number."""
    try:
        return Cell(printable(text), float(text))
    except ValueError:
        return Cell(printable(text))


def percent_cell(share: float | None) -> Cell:
    return Cell("") if share is None else Cell(f"{100 * share:.1f}%", share)


def seconds_cell(seconds: Any) -> Cell:
    return Cell(time_text(seconds), float(seconds)) if isinstance(seconds, int | float) else Cell("")


def number(value: float, digits: int = DIGITS) -> str:
    """A result as text."""
    return number_text(value, digits) if math.isfinite(value) else str(value)
