"""The page of a report: the HTML file made of what is read from runs."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from igpt.files import atomic_path, printable
from igpt.reporting.charts import color, dash, probe_chart, training_charts
from igpt.reporting.comparison import Comparison, compared
from igpt.reporting.overview import cards, table_of_accuracies, table_of_few_labels, table_of_runs
from igpt.reporting.pictures import galleries
from igpt.reporting.reported_run import ReportedRun
from igpt.units import counted


def write_report(runs: Sequence[ReportedRun], title: str, output: Path, notes: Sequence[str] = ()) -> None:
    """Write the report of one or several runs; it replaces an earlier one."""
    text = render(runs, title, notes)
    with atomic_path(output) as temporary:
        temporary.write_text(text, encoding="utf-8")


def render(runs: Sequence[ReportedRun], title: str, notes: Sequence[str] = ()) -> str:
    """The report as HTML."""
    charts = training_charts({run.label: run.series for run in runs})
    probes = {run.label: run.accuracies for run in runs}
    shares = {run.probe_summary.get("majority_share") for run in runs if run.accuracies}
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
        few_labels={run.label: table_of_few_labels(run.few_labels) for run in runs if run.few_labels},
        galleries=galleries({run.label: run.run for run in runs}),
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
    starts = run.starts or [{}]
    several = {"starts": len(starts)} if len(starts) > 1 else {}
    arguments = {"arguments": " ".join(run.arguments or [])} if alone else {}
    return {**starts[-1], **several, "directory": str(run.run.path.resolve()), **arguments}
