"""The page of a report: what is read from each run directory, and the HTML file made of it."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from igpt.errors import IgptError
from igpt.files import atomic_path, printable
from igpt.metrics_file import read_rows
from igpt.reporting.charts import Series, color, dash, probe_chart, read_series, training_charts
from igpt.reporting.comparison import Comparison, compared
from igpt.reporting.pictures import galleries
from igpt.run_directory import RunDirectory
from igpt.run_status import status_of
from igpt.units import counted, number_text, time_text

DIGITS = 4  # of results in the table of runs


@dataclass(frozen=True)
class ReportedRun:
    """A run in a report: its directory, its configuration, and the overrides in which the jobs of its sweep differ.

    The `name` is unique in the report.
    """

    name: str
    run: RunDirectory
    config: Mapping[str, Any]
    changes: Sequence[Mapping[str, Any]] = ()  # of .hydra/changes.yaml
    overrides: Sequence[str] = ()
    arguments: Sequence[str] = ()  # of the command that began the run

    @property
    def label(self) -> str:
        """The name, with what the run has of its own."""
        return printable(f"{self.name}: {' '.join(self.overrides)}" if self.overrides else self.name)

    @cached_property
    def series(self) -> Series:
        return read_series(self.run.metrics)

    @cached_property
    def summary(self) -> Mapping[str, Any]:
        return dict(read_json(self.run.summary))

    @cached_property
    def status(self) -> str:
        return status_of(self.run)

    @property
    def monitor(self) -> str:
        return str(self.config.get("monitor", "val/nats_per_token"))

    @property
    def best(self) -> float | None:
        """The best value of the monitored metric."""
        values = [value for _, value in self.series.get(self.monitor, []) if math.isfinite(value)]
        choose = max if self.config.get("monitor_mode") == "max" else min
        return choose(values, default=None)

    @property
    def steps(self) -> str:
        """The steps done, of those planned."""
        done = max((points[-1][0] + 1 for points in self.series.values()), default=0)
        planned = self.config.get("trainer", {}).get("max_steps")
        return f"{done:,} of {planned:,}" if isinstance(planned, int) and planned > 0 else f"{done:,}"


@dataclass(frozen=True)
class Cell:
    """A cell of the table of runs: its text, and the number by which the table is sorted, if it is one."""

    text: str
    number: float | None = None


Table = tuple[list[str], list[list[Cell]]]  # the names of the columns, and the rows


def write_report(runs: Sequence[ReportedRun], title: str, output: Path, notes: Sequence[str] = ()) -> None:
    """Write the report of one or several runs; it replaces an earlier one."""
    text = render(runs, title, notes)
    with atomic_path(output) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(file: Path) -> Any:
    """The content of a JSON file; an empty dict if there is none."""
    try:
        return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    except ValueError as error:
        raise IgptError(f"{file} is damaged ({error}); restore it, or move it away.") from None


def render(runs: Sequence[ReportedRun], title: str, notes: Sequence[str] = ()) -> str:
    """The report as HTML."""
    directories = {run.label: run.run for run in runs}
    charts = training_charts({run.label: run.series for run in runs})
    probes = {run.label: list(read_rows(run.run.probe / "accuracy.csv")) for run in runs}
    shares = {
        read_json(directories[name].probe / "summary.json").get("majority_share") for name in probes if probes[name]
    }
    probe = probe_chart(probes, shares.pop() if len(shares) == 1 else None)
    return template().render(
        title=printable(title),
        notes=[printable(note) for note in notes],
        runs=runs,
        colors=[color(i) for i in range(len(runs))],
        dashes=[dash(i) for i in range(len(runs))],
        cards=cards(runs[0]) if len(runs) == 1 else [],
        table=table_of_runs(runs),
        charts=[asdict(chart) for chart in charts],
        probe=asdict(probe) if probe else None,
        accuracies={name: table_of_accuracies(rows) for name, rows in probes.items() if rows},
        galleries=galleries(directories),
        comparisons=comparisons(runs),
        made=time.strftime("%Y-%m-%d %H:%M"),
    )


def template() -> Any:
    """The template of the page, which escapes everything that is put into it."""
    environment = Environment(
        loader=PackageLoader("igpt.reporting"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    assert environment.loader is not None
    environment.globals |= {
        name: Markup(environment.loader.get_source(environment, f"page.{name}")[0]) for name in ("css", "js")
    }
    environment.globals["counted"] = counted
    environment.filters["breakable"] = breakable
    return environment.get_template("page.html")


def breakable(text: str) -> Markup:
    """A dotted key, a name or a path, escaped, whose lines may break after its separators."""
    return Markup(re.sub(r"([./_=])(?=\w)", r"\1<wbr>", str(escape(text))))


def comparisons(runs: Sequence[ReportedRun]) -> dict[str, list[Comparison]]:
    """The tables of values per run, by their titles, without empty ones."""
    found = {
        "Results": compared([run.summary for run in runs]),
        "Configuration": compared([run.config for run in runs]),
        "Environment": compared([environment_of(run, len(runs) == 1) for run in runs]),
    }
    return {title: rows for title, rows in found.items() if rows}


def environment_of(run: ReportedRun, alone: bool) -> dict[str, Any]:
    """Where and with what the latest start of a run trained, its directory, and the arguments of a run `alone`."""
    starts = read_json(run.run.environment) or [{}]
    several = {"starts": len(starts)} if len(starts) > 1 else {}
    arguments = {"arguments": " ".join(run.arguments)} if alone else {}
    return {**starts[-1], **several, "directory": str(run.run.path.resolve()), **arguments}


def cards(run: ReportedRun) -> list[tuple[str, str, str]]:
    """The main values of a run: name, value, and standard error or unit."""
    summary = run.summary
    found = [("steps", run.steps, "")]
    if run.best is not None:
        found.append((f"best {run.monitor}", number(run.best), ""))
    for name in ("nats_per_token", "bits_per_dimension", "accuracy"):
        value = summary.get(f"test/{name}")
        error = summary.get("test/standard_error" if name == "nats_per_token" else f"test/{name}_standard_error")
        if isinstance(value, int | float):
            found.append((f"test/{name}", number(value), f"± {number(error, 2)}" if error is not None else ""))
    if (accuracy := best_probe(run)) is not None:
        found.append(("probe, test accuracy", f"{100 * accuracy:.1f}%", best_probe_layer(run)))
    if "parameters" in summary:
        found.append(("parameters", f"{summary['parameters']:,}", ""))
    if "seconds" in summary:
        found.append(("training time", time_text(summary["seconds"]), ""))
    return found


def best_probe(run: ReportedRun) -> float | None:
    """Test accuracy of the probe on the layer that igpt-probe reports; None without a probe."""
    value = read_json(run.run.probe / "summary.json").get("probe/trained/test_accuracy")
    return float(value) if value is not None else None


def best_probe_layer(run: ReportedRun) -> str:
    layer = read_json(run.run.probe / "summary.json").get("probe/trained/layer")
    return "" if layer is None else f"layer {layer}"


def table_of_runs(runs: Sequence[ReportedRun]) -> Table:
    """The names of the columns, and a row of cells per run; columns without any value are left out."""
    keys = list(dict.fromkeys(override.partition("=")[0] for run in runs for override in run.overrides))
    monitor = runs[0].monitor
    columns: dict[str, list[Cell]] = {"run": [], **{key: [] for key in keys}}
    for run in runs:
        chosen = dict(override.partition("=")[::2] for override in run.overrides)
        row = {
            "run": Cell(printable(run.name)),
            **{key: cell_of_text(chosen.get(key, "")) for key in keys},
            "status": Cell(run.status),
            "steps": Cell(run.steps, max((p[-1][0] + 1 for p in run.series.values()), default=0)),
            f"best {monitor}": cell(run.best),
            **{name: cell(run.summary.get(name)) for name in ("test/nats_per_token", "test/accuracy")},
            "probe, test accuracy": percent_cell(best_probe(run)),
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
