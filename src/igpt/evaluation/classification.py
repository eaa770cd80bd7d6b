"""How often a fine-tuned model is right, and what it takes for what."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from igpt.data.datamodule import ImageDataModule
from igpt.pretrained import Pretrained


def confusion_matrix(pretrained: Pretrained, data: ImageDataModule, split: str) -> NDArray[np.int64]:
    """Images of class i that were taken for class j, (K, K), over a whole split."""
    matrix = np.zeros((len(pretrained.classes), len(pretrained.classes)), np.int64)
    for batch in data.token_batches(split, doing="Classifying"):
        np.add.at(matrix, (batch.labels.numpy(), pretrained.predict(batch).cpu().numpy()), 1)
    return matrix


def accuracy(confusion: NDArray[np.int64]) -> float:
    """Share of the images that were taken for what they are."""
    return float(np.trace(confusion) / confusion.sum())
