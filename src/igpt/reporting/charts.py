"""The charts of a report as plain values, which the page draws: metrics over steps, probes over layers."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from igpt.metric_names import find_metric
from igpt.metrics_file import Points, Series

POINTS = 20_000  # of all charts of a report together, so that it stays small
MOST, FEWEST = 1000, 60  # points of a line
COLORS = 8  # that the style sheet defines
DASHES = ("", "7 4", "2 3")  # of the lines after every COLORS
SPLITS = ("train", "val", "val_ema")  # whose metrics share a chart if there is one run
FIRST = ("nats_per_token", "loss", "accuracy")  # charts that are shown before others
HIDDEN = ("test", "epoch")  # metrics with one value, which belongs into a table


@dataclass(frozen=True)
class Line:
    """One line of a chart. A legend switches all lines with the same `key`.

    `y` has None where a value is not finite. `error` are standard errors of `y`. A `level` is a single value that does
    not depend on x.
    """

    key: str
    label: str
    color: str
    dash: str
    x: Sequence[float]
    y: Sequence[float | None]
    error: Sequence[float | None] | None = None
    level: bool = False


@dataclass(frozen=True)
class Chart:
    """Lines with a common horizontal axis. `shown` charts are not behind a button. `note` is about missing values."""

    title: str
    x_label: str
    lines: Sequence[Line]
    shown: bool = True
    description: str = ""
    note: str = ""


def training_charts(runs: Mapping[str, Series]) -> list[Chart]:
    """The charts of all metrics of runs, by the label of the run, the most important ones first.

    With one run, metrics that belong together share a chart: those of training and validation, and those whose names
    differ in a number only, such as layers. With several runs, a chart compares one metric.
    """
    names = list(dict.fromkeys(name for series in runs.values() for name in series))
    names = [name for name in names if name.split("/")[0] not in HIDDEN]
    limit = max(FEWEST, min(MOST, POINTS // max(1, len(names) * len(runs))))
    if len(runs) == 1:
        (series,) = runs.values()
        charts = [chart_of_one(title, metrics, series, limit) for title, metrics in together(names).items()]
    else:
        charts = [chart_of_several(name, runs, limit) for name in names]
    return sorted(charts, key=lambda chart: (not chart.shown, importance(chart.title), chart.title))


def together(names: Sequence[str]) -> dict[str, list[str]]:
    """The names of metrics that share a chart, by the title of the chart."""
    families: dict[str, list[str]] = {}
    for name in names:
        families.setdefault(re.sub(r"\d+", "*", name), []).append(name)
    charts: dict[str, list[str]] = {}
    for family, members in families.items():
        if len(members) > 1:
            charts[family] = sorted(members, key=number_in)
            continue
        split, _, rest = members[0].partition("/")
        title = rest if split in SPLITS and rest else members[0]
        charts.setdefault(title, []).append(members[0])
    return {title if len(found) > 1 else found[0]: found for title, found in charts.items()}


def number_in(name: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", name)]


def importance(title: str) -> int:
    """The place of a chart, by its title."""
    last = title.rpartition("/")[2]
    return FIRST.index(last) if last in FIRST else len(FIRST)


def chart_of_one(title: str, metrics: Sequence[str], series: Series, limit: int) -> Chart:
    """A chart of some metrics of one run."""
    family = "*" in title
    labels = [" ".join(map(str, number_in(name))) if family else name.partition("/")[0] for name in metrics]
    colors = [ramp(i, len(metrics)) if family else color(i) for i in range(len(metrics))]
    lines = [
        line_of(name, label if len(metrics) > 1 else name, shade, "", thinned(series[name], limit))
        for name, label, shade in zip(metrics, labels, colors, strict=True)
    ]
    note = not_finite({line.label: series[name] for line, name in zip(lines, metrics, strict=True)})
    return Chart(title, "step", lines, is_shown(metrics[0]), description_of(metrics), note)


def chart_of_several(name: str, runs: Mapping[str, Series], limit: int) -> Chart:
    """A chart of one metric of several runs."""
    with_it = {label: series[name] for label, series in runs.items() if name in series}
    order = {label: i for i, label in enumerate(runs)}
    lines = [
        line_of(str(order[label]), label, color(order[label]), dash(order[label]), thinned(points, limit))
        for label, points in with_it.items()
    ]
    return Chart(name, "step", lines, is_shown(name), description_of([name]), not_finite(with_it))


def description_of(metrics: Sequence[str]) -> str:
    """What the metrics of a chart are; of several, what they have in common. Empty for those of a user's own task."""
    titles = {metric.title for name in metrics if (metric := find_metric(name))}
    shared = titles if len(titles) == 1 else {title.partition(",")[0] for title in titles}
    return shared.pop() if len(shared) == 1 else ""


def line_of(key: str, label: str, shade: str, dashes: str, points: Points) -> Line:
    return Line(key, label, shade, dashes, [step for step, _ in points], [short(value) for _, value in points])


def is_shown(metric: str) -> bool:
    """Whether a chart of this metric is shown at once: losses and accuracies, but not speed and sizes of gradients."""
    split, _, rest = metric.partition("/")
    return split == "probe" or (split in SPLITS and rest in (*FIRST, "bits_per_dimension"))


def thinned(points: Points, limit: int) -> Points:
    """At most about `limit` of the points: of each part of the line the lowest, the highest, and one that is not
    finite, so that the picture stays the same; and the last point.
    """
    if len(points) <= limit:
        return points
    n_parts = max(1, limit // 3)
    edges = [len(points) * i // n_parts for i in range(n_parts + 1)]
    kept = [point for i, j in pairwise(edges) for point in extremes(points[i:j])]
    return kept if kept[-1] is points[-1] else [*kept, points[-1]]


def extremes(part: Points) -> Iterator[tuple[int, float]]:
    """The lowest and the highest point of a part and one that is not finite, if there are any, by their steps."""
    finite = [i for i, (_, value) in enumerate(part) if math.isfinite(value)]
    others = [i for i, (_, value) in enumerate(part) if not math.isfinite(value)]
    chosen = {*others[:1]}
    if finite:
        chosen |= {min(finite, key=lambda i: part[i][1]), max(finite, key=lambda i: part[i][1])}
    yield from (part[i] for i in sorted(chosen))


def not_finite(lines: Mapping[str, Points]) -> str:
    """A sentence about the values that a chart cannot show; empty if there are none."""
    found = {label: [step for step, v in points if not math.isfinite(v)] for label, points in lines.items()}
    texts = [f"{label}, {steps_text(steps)}" for label, steps in found.items() if steps]
    return f"Not a finite number: {'; '.join(texts)}." if texts else ""


def steps_text(steps: Sequence[int]) -> str:
    return f"step {steps[0]}" if len(steps) == 1 else f"{len(steps)} values from step {steps[0]} to {steps[-1]}"


def probe_chart(probes: Mapping[str, Sequence[Mapping[str, str]]], majority: float | None) -> Chart | None:
    """Test accuracy of the linear probe by layer, from the rows of probe/accuracy.csv of runs by their labels.

    With several runs, of which some may have no rows, only the trained features are compared. `majority` is the share
    of the most frequent class.
    """
    several = len(probes) > 1
    lines: list[Line] = []
    for i, (label, rows) in enumerate(probes.items()):
        kinds = dict.fromkeys(row["features"] for row in rows)
        for kind in kinds if not several else [kind for kind in kinds if kind == "trained"]:
            own = [row for row in rows if row["features"] == kind]
            place = i if several else len(lines)
            lines.append(probe_line(str(i) if several else kind, label if several else kind, place, own, several))
    if not lines:
        return None
    if majority is not None:
        share = [percent(majority)]
        lines.append(Line("majority", "most frequent class", "var(--muted)", DASHES[2], [0], share, level=True))
    return Chart("test accuracy, %", "layer", lines, description="Linear probes on the test images")


def probe_line(key: str, label: str, place: int, rows: Sequence[Mapping[str, str]], several: bool) -> Line:
    level = len(rows) == 1
    dashes = dash(place) if several else DASHES[1] if level else ""
    return Line(
        key, label, color(place), dashes,
        [int(row["layer"]) for row in rows], [percent(row["test_accuracy"]) for row in rows],
        [percent(row.get("test_accuracy_error")) for row in rows], level,
    )  # fmt: skip


def percent(share: Any) -> float | None:
    """A share as per cent; None if it is missing or not finite."""
    return None if share in (None, "") else short(100 * float(share))


def short(value: float) -> float | None:
    """A number with six significant digits; None if it is not finite, which JSON cannot express."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


def color(i: int) -> str:
    """The color of the line i, as the style sheet names it."""
    return f"var(--line-{i % COLORS})"


def dash(i: int) -> str:
    """The dashes of the line i, which tell lines of one color apart."""
    return DASHES[i // COLORS % len(DASHES)]


def ramp(i: int, n: int) -> str:
    """The color i of n that have an order, from blue to orange."""
    return f"hsl({round(230 - 200 * i / max(1, n - 1))} 65% 50%)"
