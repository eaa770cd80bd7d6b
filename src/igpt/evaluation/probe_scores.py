"""Probes of features with labels: linear by layer, nearest neighbors, and with few labels, as flat rows of numbers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from igpt.data.packed import PackedImages
from igpt.evaluation.features import Features
from igpt.evaluation.knn import knn_predict
from igpt.evaluation.linear_probe import LinearProbe, fit_lbfgs, fit_sgd, low_label_subset, select, standardize
from igpt.evaluation.standard_error import standard_error
from igpt.progress import track

Row = dict[str, Any]


@dataclass(frozen=True)
class ProbeSettings:
    """How probes are fitted. `penalties` rise; `solver` is lbfgs or, for large data, sgd (learning rates fall). The
    `layer` is the one to report where one number is wanted; None leaves it to the validation images.
    """

    penalties: Sequence[float] = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    standardize: bool = True
    solver: str = "lbfgs"
    learning_rates: Sequence[float] = (30.0, 10.0, 3.0, 1.0, 0.3, 0.1)
    sgd_steps: int = 10_000
    neighbors: int = 10
    layer: int | None = None

    @property
    def candidates(self) -> Sequence[float]:
        """Penalties, or learning rates, of which the validation images choose one."""
        return self.penalties if self.solver == "lbfgs" else self.learning_rates


@dataclass(frozen=True)
class Labeled:
    """Features of one kind (layers, N, C), labels (N,) and groups (N,) of images that belong together, by split.

    Without a validation split nothing is chosen: there is one candidate, and every layer is as good as another.
    """

    name: str
    features: dict[str, Features]
    labels: dict[str, NDArray[np.int64]] = field(repr=False)
    classes: Sequence[str] = ()
    groups: dict[str, NDArray[np.int64]] = field(default_factory=dict, repr=False)

    def tensors(self, split: str, device: torch.device) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(self.features[split]).to(device), torch.from_numpy(self.labels[split]).to(device)

    def subset(self, index: NDArray[np.int64]) -> Labeled:
        """The same with only some of the training samples."""
        features = {**self.features, "train": self.features["train"][:, index]}
        labels = {**self.labels, "train": self.labels["train"][index]}
        return dataclasses.replace(self, features=features, labels=labels)

    def score(self, name: str, split: str, hits: NDArray[np.bool_]) -> list[Row]:
        """For each layer the accuracy `name`, from 0 to 1, and its standard error; `hits` (L, N) are the samples of a
        split that were classified rightly.
        """
        return _columns(name, hits.mean(axis=1), self.standard_error(split, hits))

    def standard_error(self, split: str, values: NDArray[Any]) -> NDArray[np.float64]:
        """Of the means (L,) of values (L, N) of a split's samples; without groups each sample stands alone."""
        return standard_error(values, self.groups.get(split, np.arange(values.shape[1])))


def labeled(
    name: str, features: dict[str, Features], splits: Mapping[str, PackedImages], classes: Sequence[str]
) -> Labeled:
    """Features (layers, N, C) of whole splits, without the images that have no label."""
    keep = {split: np.flatnonzero(splits[split].labels >= 0) for split in features}
    return Labeled(
        name,
        {s: all_of if len(keep[s]) == all_of.shape[1] else all_of[:, keep[s]] for s, all_of in features.items()},
        {s: splits[s].labels[keep[s]] for s in features},
        classes,
        {s: splits[s].groups[keep[s]] for s in features},
    )


def linear_rows(data: Labeled, settings: ProbeSettings, device: torch.device) -> list[Row]:
    """A row a layer: accuracy of the linear probe whose penalty was best on the validation split."""
    splits = ("train", "validation", "test") if "validation" in data.features else ("train", "test")
    features, labels = zip(*(data.tensors(split, device) for split in splits), strict=True)
    if settings.standardize:
        features = standardize(*features)
    probes = _fit(features[0], labels[0], len(data.classes), settings)
    probe, chosen = select(probes, features[1], labels[1]) if "validation" in splits else (_only(probes), None)
    rows: list[Row] = [{"features": data.name, "layer": layer} for layer in range(len(features[0]))]
    for layer, row in enumerate(rows):
        row["regularization"] = settings.candidates[0 if chosen is None else int(chosen[layer])]
    for split, x, y in list(zip(splits, features, labels, strict=True))[1:]:
        hits = (probe.predict(x) == y).cpu().numpy()
        _extend(rows, data.score(f"{split}_accuracy", split, hits))
    shares, residuals = balanced_accuracy(hits, data.labels["test"])
    _extend(rows, _columns("test_balanced_accuracy", shares, data.standard_error("test", residuals)))
    return rows


def _only(probes: Sequence[LinearProbe]) -> LinearProbe:
    (probe,) = probes
    return probe


def _columns(name: str, values: NDArray[np.float64], errors: NDArray[np.float64]) -> list[Row]:
    """For each layer a value and its standard error (L,)."""
    return [{name: float(value), f"{name}_error": float(error)} for value, error in zip(values, errors, strict=True)]


def _extend(rows: Sequence[Row], columns: Sequence[Row]) -> None:
    """Add the columns of each row to it."""
    for row, values in zip(rows, columns, strict=True):
        row.update(values)


def _fit(train: Tensor, labels: Tensor, n_classes: int, settings: ProbeSettings) -> list[LinearProbe]:
    if settings.solver == "lbfgs":
        return fit_lbfgs(train, labels, n_classes, settings.penalties)
    return fit_sgd(train, labels, n_classes, settings.learning_rates, settings.sgd_steps)


def balanced_accuracy(
    hits: NDArray[np.bool_], labels: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The mean over classes of the share of their samples that are recognized, (L,) for hits (L, N), and residuals
    (L, N) whose mean's standard error is that of the balanced accuracy.

    Of K classes with n samples each, a sample adds hit / (K n); the residual is N times what it adds beyond its class's
    average.
    """
    classes, number, counts = np.unique(labels, return_inverse=True, return_counts=True)
    shares = np.stack([hits[:, labels == c].mean(axis=1) for c in classes])  # (K, L)
    weights = len(labels) / (len(classes) * counts)
    return shares.mean(axis=0), weights[number] * (hits - shares[number].T)


def neighbor_hits(data: Labeled, settings: ProbeSettings) -> NDArray[np.bool_]:
    """Which test images the nearest neighbors classify rightly in each layer, (L, N)."""
    cpu = torch.device("cpu")
    (train, labels), (test, test_labels) = data.tensors("train", cpu), data.tensors("test", cpu)
    layers = track(zip(train, test, strict=True), "Searching neighbors", len(train))
    return np.stack([(knn_predict(t, labels, q, settings.neighbors) == test_labels).numpy() for t, q in layers])


def best_row(rows: Sequence[Row], layer: int | None = None) -> Row | None:
    """The row of the `layer` to report, or of the best one by validation accuracy: the test split does not choose.

    None if there are several layers and nothing that chooses one.
    """
    if len(rows) == 1:
        return rows[0]
    if layer is not None:
        return rows[layer]
    if "validation_accuracy" not in rows[0]:
        return None
    return max(rows, key=lambda row: row["validation_accuracy"])


def low_label_rows(
    kinds: Sequence[Labeled], per_class: Sequence[int], subsets: int, settings: ProbeSettings, device: torch.device
) -> list[Row]:
    """For each number of labels a class and each kind: test accuracy of the best layer, its mean over random subsets
    with the standard error of that mean, and its deviation. Every kind sees the same subsets, so a row also says by how
    much the first kind is better, on average and with the standard error of that average.

    These standard errors are over the subsets of labels; all subsets are tested on the same images.
    """
    rows = []
    for n in track(per_class, "Fitting probes with few labels"):
        labels = torch.from_numpy(kinds[0].labels["train"])
        draws = [low_label_subset(labels, n, seed, kinds[0].classes).numpy() for seed in range(subsets)]
        best = {k.name: [_reported(k.subset(draw), settings, device) for draw in draws] for k in kinds}
        for kind in kinds:
            row: Row = {"features": kind.name, "labels_per_class": n, "subsets": subsets}
            for score in ("test_accuracy", "test_balanced_accuracy"):
                values = np.array([b[score] for b in best[kind.name]])
                behind = np.array([b[score] for b in best[kinds[0].name]]) - values
                for name, each in ((score, values), (f"{score}_behind", behind)):
                    row[name], row[f"{name}_error"] = float(each.mean()), deviation(each) / math.sqrt(subsets)
                row[f"{score}_deviation"] = deviation(values)
            rows.append(row)
    return rows


def _reported(data: Labeled, settings: ProbeSettings, device: torch.device) -> Row:
    row = best_row(linear_rows(data, settings, device), settings.layer)
    assert row is not None  # probes with few labels are not begun without a layer
    return row


def deviation(values: NDArray[np.float64]) -> float:
    """The sample's standard deviation; nan for a single value."""
    return float(values.std(ddof=1)) if len(values) > 1 else math.nan
