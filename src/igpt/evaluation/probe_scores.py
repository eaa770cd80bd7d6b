"""Scores of probes as table rows: linear probes per layer, nearest neighbors, and linear probes with few labels."""

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
from igpt.evaluation.linear_probe import LinearProbe, fit_lbfgs, fit_sgd, low_label_subset, select_best, standardize
from igpt.evaluation.standard_error import standard_error
from igpt.progress import track

Row = dict[str, Any]


@dataclass(frozen=True)
class ProbeSettings:
    """How probes are fitted.

    `solver` is "lbfgs", or "sgd" for large data. `penalties` are ascending and `learning_rates` descending, that is,
    from weak to strong regularization. `layer` is the layer that counts where one number is needed; with None, it is
    chosen on the validation split.
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
        """Penalties or learning rates, of which one is chosen on the validation split."""
        return self.penalties if self.solver == "lbfgs" else self.learning_rates


@dataclass(frozen=True)
class LabeledFeatures:
    """Features of one kind (L, N, C), labels (N,), and groups (N,) of images that belong together, by split.

    Without a validation split nothing can be chosen: there must be one candidate, and no layer is the best.
    """

    name: str
    features: dict[str, Features]
    labels: dict[str, NDArray[np.int64]] = field(repr=False)
    classes: Sequence[str] = ()
    groups: dict[str, NDArray[np.int64]] = field(default_factory=dict, repr=False)

    def tensors(self, split: str, device: torch.device) -> tuple[Tensor, Tensor]:
        features, labels = torch.from_numpy(self.features[split]), torch.from_numpy(self.labels[split])
        return features.to(device), labels.to(device)

    def subset(self, index: NDArray[np.int64]) -> LabeledFeatures:
        """The same features with only these training samples."""
        features = {**self.features, "train": self.features["train"][:, index]}
        labels = {**self.labels, "train": self.labels["train"][index]}
        return dataclasses.replace(self, features=features, labels=labels)

    def accuracy_columns(self, name: str, split: str, correct: NDArray[np.bool_]) -> list[Row]:
        """Per layer, the accuracy `name`, from 0 to 1, and its standard error.

        `correct` (L, N) says which samples of the split were classified correctly.
        """
        return _columns(name, correct.mean(axis=1), self.standard_error(split, correct))

    def standard_error(self, split: str, values: NDArray[Any]) -> NDArray[np.float64]:
        """Standard errors (L,) of the means of values (L, N) of a split; samples without groups are independent."""
        return standard_error(values, self.groups.get(split, np.arange(values.shape[1])))


def labeled_features(
    name: str, features: dict[str, Features], splits: Mapping[str, PackedImages], classes: Sequence[str]
) -> LabeledFeatures:
    """Features (L, N, C) of whole splits, without the images that have no label."""
    result = LabeledFeatures(name, {}, {}, classes, {})
    for split, values in features.items():
        labeled = np.flatnonzero(splits[split].labels >= 0)
        # Indexing would copy the features, which may be large.
        result.features[split] = values if len(labeled) == values.shape[1] else values[:, labeled]
        result.labels[split] = splits[split].labels[labeled]
        result.groups[split] = splits[split].groups[labeled]
    return result


def linear_rows(data: LabeledFeatures, settings: ProbeSettings, device: torch.device) -> list[Row]:
    """One row per layer: the accuracy of the linear probe whose penalty is the best on the validation split."""
    splits = ("train", "validation", "test") if "validation" in data.features else ("train", "test")
    features, labels = zip(*(data.tensors(split, device) for split in splits), strict=True)
    if settings.standardize:
        features = standardize(*features)
    probes = _fit(features[0], labels[0], len(data.classes), settings)
    if "validation" in splits:
        probe, chosen = select_best(probes, features[1], labels[1])
        candidates = [settings.candidates[index] for index in chosen.tolist()]
    else:
        (probe,) = probes
        candidates = [settings.candidates[0]] * len(features[0])
    rows: list[Row] = [
        {"features": data.name, "layer": layer, "regularization": candidate}
        for layer, candidate in enumerate(candidates)
    ]
    for split, x, y in list(zip(splits, features, labels, strict=True))[1:]:  # all but train; test comes last
        correct = (probe.predict(x) == y).cpu().numpy()
        _add_columns(rows, data.accuracy_columns(f"{split}_accuracy", split, correct))
    balanced, residuals = balanced_accuracy(correct, data.labels["test"])
    _add_columns(rows, _columns("test_balanced_accuracy", balanced, data.standard_error("test", residuals)))
    return rows


def _columns(name: str, values: NDArray[np.float64], errors: NDArray[np.float64]) -> list[Row]:
    """Per layer, a value and its standard error, from arrays (L,)."""
    return [{name: float(value), f"{name}_error": float(error)} for value, error in zip(values, errors, strict=True)]


def _add_columns(rows: Sequence[Row], columns: Sequence[Row]) -> None:
    for row, values in zip(rows, columns, strict=True):
        row.update(values)


def _fit(train: Tensor, labels: Tensor, n_classes: int, settings: ProbeSettings) -> list[LinearProbe]:
    if settings.solver == "lbfgs":
        return fit_lbfgs(train, labels, n_classes, settings.penalties)
    return fit_sgd(train, labels, n_classes, settings.learning_rates, settings.sgd_steps)


def balanced_accuracy(
    correct: NDArray[np.bool_], labels: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Balanced accuracy (L,), the mean over classes of their accuracy, and residuals (L, N).

    The mean of the residuals has the same standard error as the balanced accuracy. With K classes of n samples each, a
    sample contributes correct / (K n). Its residual is N times the difference to the mean contribution of its class.
    """
    classes, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    accuracies = np.stack([correct[:, labels == c].mean(axis=1) for c in classes])  # (K, L)
    weights = len(labels) / (len(classes) * counts)  # (K,)
    return accuracies.mean(axis=0), weights[index] * (correct - accuracies[index].T)


def knn_correct(data: LabeledFeatures, settings: ProbeSettings) -> NDArray[np.bool_]:
    """Which test images the nearest neighbors classify correctly in each layer, (L, N)."""
    cpu = torch.device("cpu")
    (train, labels), (test, test_labels) = data.tensors("train", cpu), data.tensors("test", cpu)
    layers = track(zip(train, test, strict=True), "Searching neighbors", len(train))
    predictions = [knn_predict(features, labels, queries, settings.neighbors) for features, queries in layers]
    return np.stack([(predicted == test_labels).numpy() for predicted in predictions])


def best_row(rows: Sequence[Row], layer: int | None = None) -> Row | None:
    """The row of the given `layer`, or else of the layer with the best validation accuracy.

    None if there are several layers and no validation accuracy.
    """
    if len(rows) == 1:
        return rows[0]
    if layer is not None:
        return rows[layer]
    if "validation_accuracy" not in rows[0]:
        return None
    return max(rows, key=lambda row: row["validation_accuracy"])


def low_label_rows(
    kinds: Sequence[LabeledFeatures],
    per_class: Sequence[int],
    subsets: int,
    settings: ProbeSettings,
    device: torch.device,
) -> list[Row]:
    """One row per number of labels per class and kind of features: the test accuracy of the best layer.

    It is averaged over random subsets of the training images. The row has the mean, its standard error over the
    subsets, and the standard deviation. All kinds use the same subsets, so the row also has the mean difference to the
    first kind and its standard error. All subsets are tested on the same images.
    """
    rows = []
    for n in track(per_class, "Fitting probes with few labels"):
        labels = torch.from_numpy(kinds[0].labels["train"])
        chosen = [low_label_subset(labels, n, seed, kinds[0].classes).numpy() for seed in range(subsets)]
        best = {kind.name: [_best_layer(kind.subset(index), settings, device) for index in chosen] for kind in kinds}
        for kind in kinds:
            result: Row = {"features": kind.name, "labels_per_class": n, "subsets": subsets}
            for score in ("test_accuracy", "test_balanced_accuracy"):
                values = np.array([row[score] for row in best[kind.name]])
                behind = np.array([row[score] for row in best[kinds[0].name]]) - values
                result |= _mean_columns(score, values) | _mean_columns(f"{score}_behind", behind)
                result[f"{score}_deviation"] = standard_deviation(values)
            rows.append(result)
    return rows


def _best_layer(data: LabeledFeatures, settings: ProbeSettings, device: torch.device) -> Row:
    row = best_row(linear_rows(data, settings, device), settings.layer)
    assert row is not None  # igpt-probe requires a layer if there is no validation split
    return row


def _mean_columns(name: str, values: NDArray[np.float64]) -> Row:
    """The mean of independent values (n,) and its standard error."""
    return {name: float(values.mean()), f"{name}_error": standard_deviation(values) / math.sqrt(len(values))}


def standard_deviation(values: NDArray[np.float64]) -> float:
    """The sample standard deviation; nan for a single value."""
    return float(values.std(ddof=1)) if len(values) > 1 else math.nan
