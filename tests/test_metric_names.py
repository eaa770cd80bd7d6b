import json

from igpt.metric_names import METRICS, find_metric
from igpt.metrics_file import read_columns, read_rows
from igpt.objectives.objective import as_logged
from igpt.objectives.tasks import TASKS


def logged_names(run):
    """What a run of pre-training logged, and what validation measures of every task."""
    columns = [name for name in read_columns(run / "metrics.csv") if name != "step"]
    final = [name for name in json.loads((run / "summary.json").read_text()) if name.startswith("test/")]
    measured = {name: 0.0 for task in TASKS.values() for name in task.measures}
    return [*columns, *final, *as_logged("val", measured), *as_logged("val_ema", measured)]


def test_every_logged_value_is_listed_under_one_name(trained):
    for name in logged_names(trained):
        assert [metric.name for metric in METRICS if find_metric(name) == metric] == [name], name
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    assert {metric.panel for metric in METRICS} == {
        "train", "val", "val_ema", "val_class", "test", "probe", "gradients", "updates", "speed", "data",
    }  # fmt: skip


def test_a_family_of_values_has_one_entry():
    assert find_metric("probe/layer_12").goal == "max"
    assert find_metric("probe/layer").goal is None
    assert find_metric("probe/raw_pixels/test_accuracy").goal == "max"
    assert find_metric("val/nats_per_token").goal == "min"
    assert find_metric("val/z_loss") is None


def test_the_images_and_flops_so_far_are_logged_with_training_and_with_validation(trained):
    rows = {int(row["step"]): row for row in read_rows(trained / "metrics.csv")}
    per_step = float(rows[0]["data/images"])
    for step, row in rows.items():
        assert float(row["data/images"]) == per_step * (step + 1)
        assert float(row["data/flops"]) > 0
