"""Scores of probes as table rows: linear probes per layer, nearest neighbors, and linear probes with few labels."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from igpt.data.packed import PackedImages
from igpt.evaluation.features import Features, concatenated_name
from igpt.evaluation.knn import knn_predict
from igpt.evaluation.linear_probe import fit_lbfgs, fit_one_by_one, low_label_subset, standardize
from igpt.evaluation.standard_error import standard_error
from igpt.progress import track

Row = dict[str, Any]
Correct = dict[str, NDArray[np.bool_]]  # by split: which images are classified correctly, (L, P, N) or (L, N)

# Bytes of features that are fitted together: small fits take more time between operations than in them.
TOGETHER = 2**24
HELD_OUT_TOGETHER = 2**28  # of held-out images, for these fits


@dataclass(frozen=True)
class ProbeSettings:
    """How probes are fitted.

    `solver` is "lbfgs", with stored features, or "stream", which trains on features as they are computed, for data of
    any size. `penalties` are ascending and `learning_rates` descending, that is, from weak to strong regularization.
    `layer` is the layer that counts where one number is needed; with None, it is chosen on the validation split.
    `concatenate` adds a probe on that many layers around it. `regions` = g averages the features over g x g parts of
    the image; 1 is the average over the whole, as in the paper.

    For "stream" alone: `epochs` over the labeled training images, which are augmented if `augment`, in batches of
    `batch_size`; `attentive` adds attention pooling, which Adam trains with the learning rate
    `attentive_rate`; the state is saved every `save_every` steps.
    """

    penalties: Sequence[float] = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    standardize: bool = True
    regions: int = 1
    solver: str = "lbfgs"
    learning_rates: Sequence[float] = (30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003)
    epochs: int = 20
    batch_size: int = 256
    augment: bool = False
    attentive: bool = False
    attentive_rate: float = 0.01
    save_every: int = 500
    concatenate: int | None = None
    neighbors: int = 10
    layer: int | None = None

    @property
    def candidates(self) -> Sequence[float]:
        """Penalties or learning rates, of which one is chosen on the validation split."""
        return self.penalties if self.solver == "lbfgs" else self.learning_rates

    def __post_init__(self) -> None:
        """Order the candidates as :func:`best_candidates` expects them."""
        object.__setattr__(self, "penalties", tuple(sorted(self.penalties)))
        object.__setattr__(self, "learning_rates", tuple(sorted(self.learning_rates, reverse=True)))


@dataclass(frozen=True)
class LabeledFeatures:
    """Features of one kind (L, N, C), labels (N,), and groups (N,) of images that belong together, by split.

    Features may be mapped from files; with the solver "stream" there are none. Without a validation split nothing can
    be chosen: there must be one candidate, and no layer is the best.
    """

    name: str
    features: dict[str, Features]
    labels: dict[str, NDArray[np.int64]] = field(repr=False)
    classes: Sequence[str] = ()
    groups: dict[str, NDArray[np.int64]] = field(default_factory=dict, repr=False)

    def layers(self, split: str, layers: slice, device: torch.device) -> Tensor:
        """The features of some layers, as a tensor; a copy, since files are mapped read-only."""
        return torch.from_numpy(np.array(self.features[split][layers])).to(device)

    def subset(self, index: NDArray[np.int64]) -> LabeledFeatures:
        """The same features with only these training samples."""
        features = {**self.features, "train": self.features["train"][:, index]}
        labels = {**self.labels, "train": self.labels["train"][index]}
        return dataclasses.replace(self, features=features, labels=labels)

    def concatenated(self, layers: range) -> LabeledFeatures:
        """The features of several layers, one after another in one vector, as one layer; in memory."""
        features = {
            split: np.concatenate(values[layers.start : layers.stop], axis=-1)[None]
            for split, values in self.features.items()
        }
        return dataclasses.replace(self, name=concatenated_name(self.name, layers), features=features)

    def mean_columns(self, name: str, split: str, values: NDArray[Any]) -> list[Row]:
        """Per layer, the mean `name` of values (L, N) of the split's samples, and its standard error."""
        return _columns(name, values.mean(axis=1), self.standard_error(split, values))

    def standard_error(self, split: str, values: NDArray[Any]) -> NDArray[np.float64]:
        """Standard errors (L,) of the means of values (L, N) of a split; samples without groups are independent."""
        return standard_error(values, self.groups.get(split, np.arange(values.shape[1])))


Scores = tuple[LabeledFeatures, list[Row], NDArray[np.bool_]]  # the rows of its layers; correct test images (L, N)


def labeled_features(
    name: str, features: dict[str, Features], splits: Mapping[str, PackedImages], classes: Sequence[str]
) -> LabeledFeatures:
    """Features (L, N, C) of the labeled images of splits, with their labels and groups."""
    result = LabeledFeatures(name, features, {}, classes, {})
    for split, images in splits.items():
        labeled = images.labels >= 0
        result.labels[split], result.groups[split] = images.labels[labeled], images.groups[labeled]
    return result


def linear_rows(data: LabeledFeatures, settings: ProbeSettings, device: torch.device) -> list[Row]:
    """One row per layer: the accuracy of the linear probe whose penalty is the best on the validation split."""
    return accuracy_rows(data, lbfgs_correct(data, settings, device), settings.penalties)


def lbfgs_correct(data: LabeledFeatures, settings: ProbeSettings, device: torch.device) -> Correct:
    """Which images the probes of each layer and penalty classify correctly, on all splits but the training split.

    Small layers are fitted together with all penalties. Larger ones are fitted one by one, each penalty by itself.
    """
    held_out = [split for split in data.features if split != "train"]
    labels = {split: torch.from_numpy(values).to(device) for split, values in data.labels.items()}
    found: dict[str, list[Tensor]] = {split: [] for split in held_out}
    for layers in _layers_together(data.features):
        train, *others = (data.layers(split, layers, device) for split in ("train", *held_out))
        if settings.standardize:
            train, *others = standardize(train, *others)
        fit = fit_one_by_one if train.nbytes > TOGETHER else fit_lbfgs
        probes = fit(train, labels["train"], len(data.classes), settings.penalties)
        for split, features in zip(held_out, others, strict=True):
            found[split].append(torch.stack([p.predict(features) == labels[split] for p in probes], dim=1))
    return {split: torch.cat(parts).cpu().numpy() for split, parts in found.items()}


def _layers_together(features: Mapping[str, Features]) -> Iterator[slice]:
    n_layers = len(features["train"])
    train, total = features["train"].nbytes, sum(values.nbytes for values in features.values())
    n = max(1, min(TOGETHER * n_layers // train, HELD_OUT_TOGETHER * n_layers // max(1, total - train)))
    layers = (slice(first, first + n) for first in range(0, n_layers, n))
    return track(layers, "Probing layers", -(-n_layers // n))


def accuracy_rows(data: LabeledFeatures, correct: Correct, candidates: Sequence[float]) -> list[Row]:
    """One row per layer: the accuracies of the candidate that is the best on the validation split.

    `correct` says which images the probe of each layer and candidate classifies correctly.
    """
    if "validation" not in correct:
        (_,) = candidates  # nothing can be chosen
    rows: list[Row] = [
        {"features": data.name, "layer": layer, "regularization": candidates[index]}
        for layer, index in enumerate(chosen_candidates(correct))
    ]
    right = chosen_correct(correct)
    add_accuracies(rows, data, "accuracy", right)
    balanced, residuals = balanced_accuracy(right["test"], data.labels["test"])
    add_columns(rows, _columns("test_balanced_accuracy", balanced, data.standard_error("test", residuals)))
    return rows


def chosen_correct(correct: Correct) -> Correct:
    """Which images (L, N) the candidate that is chosen for each layer classifies correctly, by split."""
    chosen = chosen_candidates(correct)
    return {split: values[np.arange(len(chosen)), chosen] for split, values in correct.items()}


def chosen_candidates(correct: Correct) -> NDArray[np.int64]:
    """The candidate (L,) of each layer that is the best on the validation split; the first one without that split."""
    if "validation" in correct:
        return best_candidates(correct["validation"])
    return np.zeros(len(correct["test"]), np.int64)


def best_candidates(correct: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The candidate (L,) of each layer that classifies most images correctly, by `correct` (L, P, N).

    Of equals, the last one is chosen. Order them from the weakest to the strongest regularization: ascending penalties,
    or descending learning rates.
    """
    hits = correct.sum(axis=2)
    return np.asarray(hits.shape[1] - 1 - hits[:, ::-1].argmax(axis=1))  # of equals, argmax takes the first


def _columns(name: str, values: NDArray[np.float64], errors: NDArray[np.float64]) -> list[Row]:
    """Per layer, a value and its standard error, from arrays (L,)."""
    return [{name: float(value), f"{name}_error": float(error)} for value, error in zip(values, errors, strict=True)]


def add_columns(rows: Sequence[Row], columns: Sequence[Row]) -> None:
    """Add to each row the values of further columns."""
    for row, values in zip(rows, columns, strict=True):
        row.update(values)


def add_accuracies(rows: Sequence[Row], data: LabeledFeatures, name: str, right: Correct) -> None:
    """Add the columns validation_NAME and test_NAME to the rows of the layers, by `right` (L, N)."""
    for split in (split for split in ("validation", "test") if split in right):
        add_columns(rows, data.mean_columns(f"{split}_{name}", split, right[split]))


def add_differences(scores: Sequence[Scores], layer: int | None) -> None:
    """Add to each row how far its test accuracy is below that of the best layer of the first features.

    The standard error is that of the difference on the same images. Nothing is added if no layer is the best.
    """
    _, rows, right = scores[0]
    best = best_row(rows, layer)
    if best is None:
        return
    reference = right[best["layer"]].astype(np.int8)
    for data, rows, right in scores:
        add_columns(rows, data.mean_columns("test_accuracy_behind", "test", reference - right))


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


def knn_correct(data: LabeledFeatures, settings: ProbeSettings) -> Correct:
    """Which held-out images the nearest neighbors classify correctly in each layer, (L, N) by split."""
    cpu = torch.device("cpu")
    held_out = [split for split in data.features if split != "train"]
    labels = {split: torch.from_numpy(values) for split, values in data.labels.items()}
    found: dict[str, list[NDArray[np.bool_]]] = {split: [] for split in held_out}
    for layer in track(range(len(data.features["train"])), "Searching neighbors"):
        train, *others = (data.layers(split, slice(layer, layer + 1), cpu)[0] for split in ("train", *held_out))
        for split, queries in zip(held_out, others, strict=True):
            predicted = knn_predict(train, labels["train"], queries, settings.neighbors)
            found[split].append((predicted == labels[split]).numpy())
    return {split: np.stack(values) for split, values in found.items()}


def best_row(rows: Sequence[Row], layer: int | None = None, score: str = "accuracy") -> Row | None:
    """The row of the given `layer`, or else of the layer with the best `score` on the validation split.

    None if there are several layers and no such score.
    """
    if len(rows) == 1:
        return rows[0]
    if layer is not None:
        return rows[layer]
    if f"validation_{score}" not in rows[0]:
        return None
    return max(rows, key=lambda row: row[f"validation_{score}"])


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
