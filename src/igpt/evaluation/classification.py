"""How often a fine-tuned model is right, and what it takes for what."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from igpt.data.datamodule import ImageDataModule
from igpt.evaluation.standard_error import standard_error
from igpt.pretrained import Pretrained


@dataclass(frozen=True)
class Predictions:
    """What a classifier took the labeled images of a split for: labels, predicted classes and groups, each (N,)."""

    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    groups: NDArray[np.int64]

    @property
    def accuracy(self) -> float:
        """Share of the images that were taken for what they are."""
        return float((self.predicted == self.labels).mean())

    @property
    def standard_error(self) -> float:
        """Of the accuracy, by groups of images."""
        return float(standard_error(self.predicted == self.labels, self.groups))

    def confusion(self, n_classes: int) -> NDArray[np.int64]:
        """Images of class i that were taken for class j, (K, K)."""
        matrix = np.zeros((n_classes, n_classes), np.int64)
        np.add.at(matrix, (self.labels, self.predicted), 1)
        return matrix


def predict_split(pretrained: Pretrained, data: ImageDataModule, split: str) -> Predictions | None:
    """Predictions of a fine-tuned model for the labeled images of a whole split; None if it has none."""
    labeled = data.splits[split].labels >= 0
    if not labeled.any():
        return None
    batches = data.labeled_batches(split, doing="Classifying")
    predicted = torch.cat([pretrained.predict(batch).cpu() for batch in batches]).numpy()
    return Predictions(data.splits[split].labels[labeled], predicted, data.splits[split].groups[labeled])
