from igpt.training.loggers.best_values import BestValues, goal_in_training


def test_only_metrics_of_the_course_of_a_run_have_a_goal():
    assert goal_in_training("val/nats_per_token") == "min"
    assert goal_in_training("probe/layer_3") == "max"
    assert goal_in_training("test/nats_per_token") is None
    assert goal_in_training("train/lr") is None
    assert goal_in_training("mine/loss") is None


def test_best_values_begin_with_those_before_the_first_step(tmp_path):
    file = tmp_path / "metrics.csv"
    file.write_text("step,train/loss,val/accuracy,train/lr\n0,3,0.25,1\n1,2,,1\n2,1,0.75,1\n")
    best = BestValues(file, first_step=2)
    assert best.update({"train/loss": 2.5, "train/lr": 0.5}) == {"train/loss": {"min": 2.0}}
    assert best.update({"train/loss": float("nan")}) == {}
    assert best.update({"train/loss": 1.5, "val/accuracy": 0.5}) == {
        "train/loss": {"min": 1.5}, "val/accuracy": {"max": 0.5},
    }  # fmt: skip
    assert BestValues(file, first_step=0).update({"train/loss": 9.0}) == {"train/loss": {"min": 9.0}}
