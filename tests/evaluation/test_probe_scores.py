"""Accuracies of probes and their standard errors."""

import numpy as np
import pytest
import torch
from scipy.stats import sem
from sklearn.metrics import balanced_accuracy_score

from igpt.commands.probe_report import best_values
from igpt.data.sources import SPLITS
from igpt.evaluation import probe_scores
from igpt.evaluation.linear_probe import low_label_subset
from igpt.evaluation.probe_scores import (
    LabeledFeatures,
    ProbeSettings,
    accuracy_rows,
    add_differences,
    balanced_accuracy,
    best_candidates,
    best_row,
    chosen_correct,
    lbfgs_correct,
    linear_rows,
    low_label_rows,
)


@pytest.fixture(scope="module")
def correct():
    """Predictions of two layers, correct or not, for 900 images in 150 groups and three classes of different size."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(150), 6)
    labels = rng.choice(3, 150, p=[0.6, 0.3, 0.1])[groups]
    chance = rng.uniform(size=(2, 150))[:, groups] * [[0.9], [0.6]]
    return rng.uniform(size=(2, 900)) < chance, labels, groups


def bootstrap(correct, labels, groups, score):
    """The standard deviation of a score when whole groups are sampled with replacement."""
    rng = np.random.default_rng(1)
    members = groups.argsort(kind="stable").reshape(-1, 6)
    samples = (members[rng.integers(150, size=150)].ravel() for _ in range(4000))
    return np.std([score(correct[index], labels[index]) for index in samples])


def test_standard_errors_agree_with_a_bootstrap_over_groups(correct):
    correct, labels, groups = correct
    data = LabeledFeatures("random", {}, {"test": labels}, "abc", {"test": groups})
    _, residuals = balanced_accuracy(correct, labels)
    for layer, row in enumerate(data.mean_columns("test_accuracy", "test", correct)):
        assert row["test_accuracy"] == correct[layer].mean()
        expected = bootstrap(correct[layer], labels, groups, lambda h, _: h.mean())
        assert row["test_accuracy_error"] == pytest.approx(expected, rel=0.05)
        expected = bootstrap(correct[layer], labels, groups, lambda h, y: np.mean([h[y == c].mean() for c in range(3)]))
        assert data.standard_error("test", residuals)[layer] == pytest.approx(expected, rel=0.05)


def test_balanced_accuracy_equals_scikit_learns(correct):
    correct, labels, _ = correct
    shares, _ = balanced_accuracy(correct, labels)
    expected = [balanced_accuracy_score(labels, np.where(each, labels, (labels + 1) % 3)) for each in correct]
    np.testing.assert_allclose(shares, expected)


@pytest.fixture
def data():
    """Features of two layers and two classes, which the second layer separates better."""
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 2
    features = {
        s: (rng.normal(size=(2, 60, 4)) + labels[:, None] * [[[0.5]], [[2]]]).astype(np.float32) for s in SPLITS
    }
    return LabeledFeatures("random", features, dict.fromkeys(SPLITS, labels), ("even", "odd"))


def test_the_low_label_error_is_over_the_subsets(data):
    settings, cpu = ProbeSettings(penalties=(0.1,), layer=0), torch.device("cpu")
    (row,) = low_label_rows([data], [5], 4, settings, cpu)
    labels = torch.from_numpy(data.labels["train"])
    each = [
        linear_rows(data.subset(low_label_subset(labels, 5, seed, data.classes).numpy()), settings, cpu)[0][
            "test_accuracy"
        ]
        for seed in range(4)
    ]
    assert row["test_accuracy"] == pytest.approx(np.mean(each))
    assert row["test_accuracy_error"] == pytest.approx(sem(each))
    assert row["test_accuracy_deviation"] == pytest.approx(np.std(each, ddof=1))


def test_nothing_is_chosen_without_a_validation_split(data):
    held_out = {split: data.features[split] for split in ("train", "test")}
    blind = LabeledFeatures("random", held_out, data.labels, data.classes)
    settings, cpu = ProbeSettings(penalties=(0.1,)), torch.device("cpu")
    rows = linear_rows(blind, settings, cpu)
    assert not any("validation" in name for row in rows for name in row)
    assert [row["test_accuracy"] for row in rows] == [r["test_accuracy"] for r in linear_rows(data, settings, cpu)]
    assert best_row(rows) is None
    assert best_row(rows, layer=1) is rows[1]
    assert best_row(rows[:1]) is rows[0]
    with pytest.raises(ValueError, match="too many values"):
        linear_rows(blind, ProbeSettings(penalties=(0.1, 1)), cpu)


def test_differences_are_on_the_same_images(data):
    """The layer that counts is the second one, so its own difference is zero without an error."""
    settings, cpu = ProbeSettings(penalties=(0.1,)), torch.device("cpu")
    correct = lbfgs_correct(data, settings, cpu)
    scores = [(data, accuracy_rows(data, correct, settings.penalties), chosen_correct(correct)["test"])]
    add_differences(scores, layer=None)
    first, second = scores[0][1]
    assert (second["test_accuracy_behind"], second["test_accuracy_behind_error"]) == (0, 0)
    right = correct["test"][:, 0].astype(float)
    assert first["test_accuracy_behind"] == pytest.approx(second["test_accuracy"] - first["test_accuracy"])
    assert first["test_accuracy_behind_error"] == pytest.approx(sem(right[1] - right[0]))
    unpaired = np.hypot(first["test_accuracy_error"], second["test_accuracy_error"])
    assert first["test_accuracy_behind_error"] != pytest.approx(unpaired, rel=0.01)


def test_nearest_neighbors_have_a_best_layer_of_their_own():
    rows = [
        {"layer": 0, "validation_accuracy": 0.9, "test_accuracy": 0.8, "validation_knn_accuracy": 0.5,
         "test_knn_accuracy": 0.6},
        {"layer": 1, "validation_accuracy": 0.8, "test_accuracy": 0.9, "validation_knn_accuracy": 0.7,
         "test_knn_accuracy": 0.5},
    ]  # fmt: skip
    assert best_values(rows, None) == {
        "layer": 0, "validation_accuracy": 0.9, "test_accuracy": 0.8,
        "knn_layer": 1, "validation_knn_accuracy": 0.7, "test_knn_accuracy": 0.5,
    }  # fmt: skip
    assert best_values(rows, 0)["test_knn_accuracy"] == 0.6
    blind = [{name: value for name, value in row.items() if "validation" not in name} for row in rows]
    assert best_values(blind, None) == {}


def test_layers_may_be_fitted_one_by_one(data, monkeypatch):
    settings, cpu = ProbeSettings(penalties=(0.01, 0.1)), torch.device("cpu")
    together = linear_rows(data, settings, cpu)
    monkeypatch.setattr(probe_scores, "TOGETHER", 1)
    assert linear_rows(data, settings, cpu) == together


def test_every_layer_gets_its_best_candidate_and_the_last_of_equals():
    hits = np.array([[1, 3, 2], [3, 2, 3], [0, 0, 0]])[..., None]
    correct = np.arange(4) < hits  # (L, P, N)
    assert best_candidates(correct).tolist() == [1, 2, 2]
