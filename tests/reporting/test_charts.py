"""The charts of a report: which lines share one, and what is kept of long lines."""

import math
import random

import pytest

from igpt.errors import IgptError
from igpt.metrics_file import read_series
from igpt.reporting.charts import FEWEST, MOST, POINTS, probe_chart, thinned, training_charts


def labels(charts):
    return {chart.title: [line.label for line in chart.lines] for chart in charts}


def test_metrics_of_one_run_that_belong_together_share_a_chart():
    names = ["train/lr", "train/loss", "train/nats_per_token", "val/nats_per_token", "test/nats_per_token"]
    names += [f"probe/layer_{layer}" for layer in (10, 9, 0)]
    charts = training_charts({"run": {name: [(0, 1.0), (1, 2.0)] for name in names}})
    assert charts[0].description == "Nats per token"
    assert labels(charts) == {
        "nats_per_token": ["train", "val"],
        "train/loss": ["train/loss"],
        "probe/layer_*": ["0", "9", "10"],
        "train/lr": ["train/lr"],
    }
    assert [chart.title for chart in charts if not chart.shown] == ["train/lr"]


def test_several_runs_are_compared_metric_by_metric_in_their_own_colors():
    with_loss = {"train/loss": [(0, 1.0)]}
    runs = {f"run {i}": {**with_loss, **({"val/accuracy": [(0, 0.5)]} if i else {})} for i in range(10)}
    loss, accuracy = training_charts(runs)
    assert [line.label for line in loss.lines] == list(runs)
    assert len({(line.color, line.dash) for line in loss.lines}) == 10
    assert accuracy.lines[0].label == "run 1"
    assert accuracy.lines[0].color == loss.lines[1].color


def test_a_thinned_line_keeps_its_extremes_its_last_point_and_what_is_not_finite():
    numbers = random.Random(0)
    points = [(step, numbers.random()) for step in range(10_000)]
    points[1234], points[5678], points[7777] = (1234, -9.0), (5678, 9.0), (7777, math.nan)
    kept = thinned(points, 300)
    assert len(kept) <= 310
    assert {(1234, -9.0), (5678, 9.0), points[-1]} <= set(kept)
    assert 7777 in [step for step, _ in kept]
    assert [step for step, _ in kept] == sorted({step for step, _ in kept})
    assert thinned(points[:300], 300) == points[:300]


@pytest.mark.parametrize(("n_runs", "n_metrics"), [(1, 3), (4, 10), (20, 20)])
def test_a_report_of_long_runs_has_a_limited_number_of_points(n_runs, n_metrics):
    points = [(step, math.sin(step)) for step in range(1500)]
    charts = training_charts({str(i): {f"m{chr(97 + j)}": points for j in range(n_metrics)} for i in range(n_runs)})
    lines = [line for chart in charts for line in chart.lines]
    assert sum(len(line.x) for line in lines) <= max(POINTS, FEWEST * len(lines)) + 2 * len(lines)
    assert max(len(line.x) for line in lines) <= MOST + 2


def test_values_that_are_not_finite_are_gaps_and_named(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,train/loss\n0,1.5\n1,nan\n2,inf\n3,2\n4,cut")
    (chart,) = training_charts({"run": read_series(tmp_path / "metrics.csv")})
    assert chart.lines[0].y == [1.5, None, None, 2.0]
    assert chart.note == "Not a finite number: train/loss, 2 values from step 1 to 2."


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,train/loss\n0,1.5\n1,what\n")
    with pytest.raises(IgptError, match=r"metrics.csv is damaged \(.*what.*\); restore it"):
        read_series(tmp_path / "metrics.csv")


def row(features, layer, accuracy, error):
    return {"features": features, "layer": layer, "test_accuracy": accuracy, "test_accuracy_error": error}


def test_probes_have_errors_in_per_cent_and_levels_for_features_without_layers():
    rows = [row("trained", "0", "0.25", "0.01"), row("trained", "1", "0.5", "nan"), row("pixels", "0", "0.3", "0.02")]
    chart = probe_chart({"run": rows}, majority=0.125)
    trained, pixels, majority = chart.lines
    assert (trained.x, trained.y, trained.error) == ([0, 1], [25.0, 50.0], [1.0, None])
    assert (pixels.level, pixels.y) == (True, [30.0])
    assert (majority.level, majority.y) == (True, [12.5])
    several = probe_chart({"a": [], "b": rows}, None)
    assert [(line.label, line.color) for line in several.lines] == [("b", pixels.color)]
    assert probe_chart({"run": []}, 0.1) is None
