"""Masked pre-training, probes and fine-tuning from end to end, on small models."""

import csv
import json

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

import igpt
from conftest import SMALL, run_command
from igpt.data.packed import open_packed, pack
from igpt.data.sources import EmojiSource
from igpt.errors import IgptError


def weights(run):
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def read(path):
    with open(path) as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IGPT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        yield tmp_path_factory.getbasetemp() / "cache"


@pytest.fixture(scope="module")
def masked(tmp_path_factory, cache):
    """The run directory of a small masked model."""
    folder = tmp_path_factory.mktemp("masked")
    steps = ("trainer.max_steps=8", "trainer.val_check_interval=4", "sample_every=8")
    run_command("train", *SMALL, "objective=mlm", *steps, "hydra.run.dir=run", cwd=folder)
    return folder / "run"


def test_masked_training_evaluates_twice_to_the_same_number(masked, command):
    assert (masked / "filled" / "step_0000008.png").exists()
    assert (masked / "figures" / "filled.png").exists()
    expected = json.loads((masked / "summary.json").read_text())["test/nats_per_token"]
    for _ in range(2):
        command("evaluate", f"run={masked}")
        assert json.loads((masked / "evaluation" / "test.json").read_text())["test/nats_per_token"] == expected


def test_masked_training_does_not_depend_on_workers(command, tmp_path):
    for workers in (0, 2):
        steps = ("trainer.max_steps=3", "callbacks=none")
        command("train", *SMALL, "objective=mlm", *steps, f"data.num_workers={workers}", f"hydra.run.dir={workers}")
    for name, weight in weights(tmp_path / "0").items():
        assert torch.equal(weight, weights(tmp_path / "2")[name])


def test_a_masked_model_fills_in_and_generates(masked, cache):
    model = igpt.load(masked)
    images = open_packed(pack(EmojiSource(resolution=8), cache))["test"].images[:5]
    masks, filled = model.predict_fixed_masks(images)
    quantized = model.tokenizer.decode(model.tokenize(images)).numpy()
    np.testing.assert_array_equal(filled[~masks], quantized[~masks])
    assert 0 < masks.mean() < 0.4
    three_passes = igpt.SamplingConfig(passes=3)
    assert model.sample(2, sampling=three_passes).shape == (2, 8, 8, 3)
    completed = model.complete(images, n=2, sampling=three_passes)
    np.testing.assert_array_equal(completed[:, :, :4], np.broadcast_to(quantized[:, None, :4], (5, 2, 4, 8, 3)))
    with pytest.raises(IgptError, match="no likelihood"):
        model.log_likelihood(images)


def test_masked_features_average_over_masks(masked, cache):
    model = igpt.load(masked)
    images = open_packed(pack(EmojiSource(resolution=8), cache))["test"].images[:5]
    whole, averaged = model.features(images), model.features(images, masks=3)
    assert whole.shape == averaged.shape == (5, 2, 32)
    assert not np.allclose(whole, averaged)
    np.testing.assert_array_equal(model.features(images, layer=1), whole[:, 1])


SCORES = ("validation_accuracy", "test_accuracy", "test_balanced_accuracy", "test_knn_accuracy")


def test_probe_prints_every_layer_beside_the_baselines(trained, command, cache):
    few_labels = ("labels_per_class=[5]", "subsets=2")
    printed = command("probe", f"run={trained}", *few_labels, "probe.concatenate=2", "logger=none")
    rows = read(trained / "probe" / "accuracy.csv")
    assert [(row["features"], row["layer"]) for row in rows] == [
        ("trained", "0"), ("trained", "1"), ("untrained", "0"), ("untrained", "1"), ("raw pixels", "0"),
        ("palette histogram", "0"), ("trained layers 0-1", "0"),
    ]  # fmt: skip
    shown = [(100 * float(row[name]), 100 * float(row[f"{name}_error"])) for row in rows for name in SCORES]
    assert all(f" {accuracy:.1f} +- {error:.1f}" in printed for accuracy, error in shown)
    assert all(2 < error < 8 for _, error in shown)
    few = read(trained / "probe" / "low_label.csv")
    assert [row["features"] for row in few] == ["trained", "untrained", "raw pixels", "palette histogram"]
    accuracies = [float(row["test_accuracy"]) for row in few]
    assert [float(row["test_accuracy_behind"]) for row in few] == pytest.approx([accuracies[0] - a for a in accuracies])
    assert (trained / "probe" / "accuracy.png").exists()
    # The raw-pixel probe, fitted anew by scikit-learn with the penalty that was chosen.
    splits = open_packed(pack(EmojiSource(resolution=8), cache))
    x, z = (splits[s].images.reshape(len(splits[s]), -1) / 255.0 for s in ("train", "test"))
    mean, deviation = x.mean(0), x.std(0)
    chosen = float(rows[4]["regularization"])
    theirs = LogisticRegression(C=1 / (chosen * len(x)), max_iter=2000).fit(
        (x - mean) / deviation, splits["train"].labels
    )
    accuracy = theirs.score((z - mean) / deviation, splits["test"].labels)
    assert float(rows[4]["test_accuracy"]) == pytest.approx(accuracy, abs=0.01)


def test_probe_computes_features_once(trained, command):
    command("probe", f"run={trained}", "logger=none")
    files = {path: path.stat().st_mtime_ns for path in (trained / "features").iterdir()}
    assert len(files) == 12  # of four kinds of features and three splits
    command("probe", f"run={trained}", "logger=none")
    assert files == {path: path.stat().st_mtime_ns for path in (trained / "features").iterdir()}


def test_a_probe_leaves_no_results_of_another_one(trained, command):
    few = ("untrained=false", "probe.penalties=[0.1]", "logger=none")
    command("probe", f"run={trained}", *few, "labels_per_class=[5]", "subsets=2")
    assert (trained / "probe" / "low_label.csv").exists()
    command("probe", f"run={trained}", *few)
    assert not (trained / "probe" / "low_label.csv").exists()
    table = (trained / "probe" / "accuracy.csv").read_text()
    command("probe", f"run={trained}", *few, "checkpoint=last", "probe.standardize=false")
    assert (trained / "probe" / "accuracy.csv").read_text() == table
    assert (trained / "probe" / "last" / "accuracy.csv").read_text() != table


STREAM = ("probe.solver=stream", "logger=none", "device=cpu", "probe.epochs=2", "probe.learning_rates=[1,0.1]")


def test_a_stream_probe_has_every_layer_with_attention_and_concatenated(trained, command):
    command("probe", f"run={trained}", *STREAM, "probe.attentive=true", "probe.concatenate=2", "untrained=false")
    rows = read(trained / "probe" / "accuracy.csv")
    assert [(row["features"], row["layer"]) for row in rows] == [
        ("trained", "0"), ("trained", "1"), ("raw pixels", "0"), ("palette histogram", "0"),
        ("trained layers 0-1", "0"),
    ]  # fmt: skip
    assert all(0.2 < float(row["test_accuracy"]) < 1 and float(row["test_accuracy_error"]) > 0.02 for row in rows)
    assert [bool(row["test_attentive_accuracy"]) for row in rows] == [True, True, False, False, False]
    before = (trained / "probe" / "stream.pt").read_bytes()
    printed = command("probe", f"run={trained}", *STREAM, "probe.attentive=true", "untrained=false")
    assert (trained / "probe" / "stream.pt").read_bytes() == before  # it was complete
    assert read(trained / "probe" / "accuracy.csv")[:4] == [{k: row[k] for k in row} for row in rows[:4]]
    assert "trained layers" not in printed


LBFGS = ["logger=none", "precision=32-true"]


@pytest.mark.parametrize("solver", [["probe.attentive=true", *STREAM], LBFGS], ids=["stream", "lbfgs"])
def test_a_probe_of_regions(trained, command, solver, cache):
    command("probe", f"run={trained}", *solver, "probe.regions=2", "probe.concatenate=2", "probe.penalties=[0.1]")
    rows = read(trained / "probe" / "accuracy.csv")
    assert [(row["features"], row["layer"]) for row in rows] == [
        ("trained 2x2 regions", "0"), ("trained 2x2 regions", "1"), ("untrained 2x2 regions", "0"),
        ("untrained 2x2 regions", "1"), ("raw pixels", "0"), ("palette histogram", "0"),
        ("trained 2x2 regions layers 0-1", "0"),
    ]  # fmt: skip
    assert all(0.2 < float(row["test_accuracy"]) < 1 for row in rows)
    assert "probe/trained 2x2 regions/test_accuracy" in json.loads((trained / "probe" / "summary.json").read_text())
    if solver == LBFGS:
        images = open_packed(pack(EmojiSource(resolution=8), cache))["test"].images
        expected = igpt.load(trained).features(images, regions=2).swapaxes(0, 1)
        stored = [np.load(path) for path in (trained / "features").iterdir()]
        assert any(x.shape == expected.shape and np.allclose(x, expected, atol=1e-5) for x in stored)


def test_online_probe_leaves_the_training_alone(command, tmp_path):
    steps = ("trainer.max_steps=4", "trainer.val_check_interval=2", "sample_every=100")
    command("train", *SMALL, *steps, "hydra.run.dir=without")
    command(
        "train", *SMALL, *steps, "hydra.run.dir=with", "callbacks=online_probe", "callbacks.online_probe.n_train=200"
    )
    for name, weight in weights(tmp_path / "without").items():
        assert torch.equal(weight, weights(tmp_path / "with")[name])
    curve = [row["probe/layer_1"] for row in read(tmp_path / "with" / "metrics.csv")]
    assert [bool(value) for value in curve] == [False, True, False, True]


@pytest.mark.parametrize("kind", ["ar", "mlm"])
def test_fine_tuning_starts_from_the_pre_trained_weights(command, tmp_path, trained, masked, kind):
    start = {"ar": trained, "mlm": masked}[kind]
    tune = ("experiment=emoji_finetune", *SMALL[1:], "trainer.max_steps=3", "hydra.run.dir=tuned", "callbacks=default")
    command("train", *tune, f"init_from={start}", "optim.lr=1e-12")  # so small that the weights stay
    state = weights(tmp_path / "tuned")
    best = torch.load(start / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    for name, weight in best.items():
        torch.testing.assert_close(state[name], weight)
    summary = json.loads((tmp_path / "tuned" / "summary.json").read_text())
    pretrained = json.loads((start / "summary.json").read_text())
    assert summary["test/nats_per_token"] == pytest.approx(pretrained["test/nats_per_token"], rel=1e-5)
    assert (tmp_path / "tuned" / "figures" / "confusion.png").exists()


def test_a_fine_tuned_model_evaluates_classifies_and_resumes(command, tmp_path, trained):
    tune = ("experiment=emoji_finetune", *SMALL[1:], "trainer.max_steps=3", "hydra.run.dir=tuned")
    command("train", *tune, f"init_from={trained}")
    printed = command("evaluate", "run=tuned")
    accuracy = json.loads((tmp_path / "tuned" / "evaluation" / "test.json").read_text())["test/accuracy"]
    assert f"{accuracy:.4f}" in printed
    assert (tmp_path / "tuned" / "evaluation" / "test_confusion.png").exists()
    command("train", "run=tuned", "trainer.max_steps=5")
    assert json.loads((tmp_path / "tuned" / "summary.json").read_text())["steps"] == 5
    model = igpt.load(tmp_path / "tuned")
    assert set(model.classify(np.zeros((2, 8, 8, 3), np.uint8))) <= set(EmojiSource().classes)


def test_plain_classification_from_scratch(command, tmp_path):
    tune = ("experiment=emoji_finetune", *SMALL[1:], "trainer.max_steps=2", "hydra.run.dir=run", "callbacks=none")
    weights_of_losses = ("objective.generative_weight=0", "objective.classification_weight=0.5")
    command("train", *tune, "objective.task=mlm", *weights_of_losses)
    for row in read(tmp_path / "run" / "metrics.csv"):
        assert float(row["train/loss"]) == pytest.approx(0.5 * float(row["train/class_loss"]))  # what is optimized
    state = weights(tmp_path / "run")
    assert not state["model.head.weight"].any()  # the generative head started at zero and got no gradient
    assert state["head.weight"].any()
