"""Probes of features with labels: linear by layer, nearest neighbours, and with few labels, as flat rows of numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from igpt.evaluation.features import Features
from igpt.evaluation.knn import knn_accuracy
from igpt.evaluation.linear_probe import LinearProbe, fit_lbfgs, fit_sgd, low_label_subset, select, standardise
from igpt.progress import track

Row = dict[str, Any]


@dataclass(frozen=True)
class ProbeSettings:
    """How probes are fitted. `penalties` rise; `solver` is lbfgs or, for large data, sgd (learning rates fall)."""

    penalties: Sequence[float] = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    standardise: bool = True
    solver: str = "lbfgs"
    learning_rates: Sequence[float] = (30.0, 10.0, 3.0, 1.0, 0.3, 0.1)
    sgd_steps: int = 10_000
    neighbours: int = 10


@dataclass(frozen=True)
class Labelled:
    """Features of one kind (layers, N, C) and labels (N,) for the three splits."""

    name: str
    features: dict[str, Features]
    labels: dict[str, NDArray[np.int64]] = field(repr=False)
    classes: Sequence[str] = ()

    def tensors(self, split: str, device: torch.device) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(self.features[split]).to(device), torch.from_numpy(self.labels[split]).to(device)

    def subset(self, index: NDArray[np.int64]) -> Labelled:
        """The same with only some of the training samples."""
        features = {**self.features, "train": self.features["train"][:, index]}
        return Labelled(self.name, features, {**self.labels, "train": self.labels["train"][index]}, self.classes)


def linear_rows(data: Labelled, settings: ProbeSettings, device: torch.device) -> list[Row]:
    """A row a layer: accuracy of the linear probe whose penalty was best on the validation split."""
    (train, labels), (validation, validation_labels), (test, test_labels) = (
        data.tensors(split, device) for split in ("train", "validation", "test")
    )
    if settings.standardise:
        train, validation, test = standardise(train, validation, test)
    probe, chosen = select(_fit(train, labels, len(data.classes), settings), validation, validation_labels)
    scores = {
        "validation": probe.accuracy(validation, validation_labels),
        "test": probe.accuracy(test, test_labels),
        "test_balanced": balanced_accuracy(probe.predict(test), test_labels),
    }
    candidates = settings.penalties if settings.solver == "lbfgs" else settings.learning_rates
    return [
        {
            "features": data.name,
            "layer": layer,
            "regularisation": candidates[int(chosen[layer])],
            **{f"{name}_accuracy": float(score[layer]) for name, score in scores.items()},
        }
        for layer in range(len(train))
    ]


def _fit(train: Tensor, labels: Tensor, n_classes: int, settings: ProbeSettings) -> list[LinearProbe]:
    if settings.solver == "lbfgs":
        return fit_lbfgs(train, labels, n_classes, settings.penalties)
    return fit_sgd(train, labels, n_classes, settings.learning_rates, settings.sgd_steps)


def balanced_accuracy(predicted: Tensor, labels: Tensor) -> Tensor:
    """The mean over classes of the share of their samples that are recognised: (L,) for predictions (L, N)."""
    right = (predicted == labels).double()
    return torch.stack([right[:, labels == c].mean(dim=1) for c in labels.unique()]).mean(dim=0)


def neighbour_accuracies(data: Labelled, settings: ProbeSettings) -> list[float]:
    """Test accuracy of the nearest neighbours in each layer."""
    cpu = torch.device("cpu")
    (train, labels), (test, test_labels) = data.tensors("train", cpu), data.tensors("test", cpu)
    k = settings.neighbours
    layers = track(zip(train, test, strict=True), "Searching neighbours", len(train))
    return [knn_accuracy(t, labels, q, test_labels, k) for t, q in layers]


def best_row(rows: Sequence[Row]) -> Row:
    """The row of the best layer, by validation accuracy: the test split does not choose."""
    return max(rows, key=lambda row: row["validation_accuracy"])


def low_label_rows(
    kinds: Sequence[Labelled], per_class: Sequence[int], subsets: int, settings: ProbeSettings, device: torch.device
) -> list[Row]:
    """For each number of labels a class and each kind: test accuracy of the best layer, mean and deviation over random
    subsets. Every kind sees the same subsets, so a row also says by how much the first kind is better, on average and
    with the standard error of that average.
    """
    rows = []
    for n in track(per_class, "Fitting probes with few labels"):
        labels = torch.from_numpy(kinds[0].labels["train"])
        draws = [low_label_subset(labels, n, seed, kinds[0].classes).numpy() for seed in range(subsets)]
        best = {k.name: [best_row(linear_rows(k.subset(draw), settings, device)) for draw in draws] for k in kinds}
        for kind in kinds:
            row: Row = {"features": kind.name, "labels_per_class": n, "subsets": subsets}
            for score in ("test_accuracy", "test_balanced_accuracy"):
                values = np.array([b[score] for b in best[kind.name]])
                behind = np.array([b[score] for b in best[kinds[0].name]]) - values
                row[score], row[f"{score}_deviation"] = float(values.mean()), deviation(values)
                row[f"{score}_behind"] = float(behind.mean())
                row[f"{score}_behind_error"] = deviation(behind) / math.sqrt(subsets)
            rows.append(row)
    return rows


def deviation(values: NDArray[np.float64]) -> float:
    """The sample's standard deviation; nan for a single value."""
    return float(values.std(ddof=1)) if len(values) > 1 else math.nan
