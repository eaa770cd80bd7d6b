"""The accuracy of a fine-tuned model, and which classes it confuses."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from igpt import figures
from igpt.data.datamodule import ImageDataModule
from igpt.evaluation.evaluator import Evaluation, Evaluator, Table
from igpt.evaluation.labels import left_out
from igpt.evaluation.standard_error import standard_error
from igpt.pretrained import Pretrained

log = logging.getLogger(__name__)


class ClassificationEvaluator(Evaluator):
    """Accuracy, its standard error by groups of images, and a confusion matrix as a figure and as a table, over the
    labeled images of a split.

    It applies to fine-tuned models.
    """

    def evaluate(self, pretrained: Pretrained, data: ImageDataModule, split: str) -> Evaluation:
        if pretrained.class_head is None:
            return Evaluation()
        images = data.splits[split]
        is_labeled = images.labels >= 0
        n_labeled = int(is_labeled.sum())
        if n_labeled < len(images):
            log.warning(left_out(split, len(images) - n_labeled, len(images), "the accuracy"))
        if n_labeled == 0:
            return Evaluation()
        batches = data.labeled_batches(split, activity="Classifying")
        predicted = torch.cat([pretrained.predict(batch).cpu() for batch in batches]).numpy()
        labels = images.labels[is_labeled]
        correct = predicted == labels
        values = {
            f"{split}/accuracy": float(correct.mean()),
            f"{split}/accuracy_standard_error": float(standard_error(correct, images.groups[is_labeled])),
            f"{split}/labeled_images": n_labeled,
        }
        matrix = confusion_matrix(labels, predicted, len(pretrained.classes))
        figure = figures.confusion(matrix, pretrained.classes)
        return Evaluation(values, {"confusion": figure}, {"confusion": confusions(matrix, pretrained.classes)})


def confusions(matrix: NDArray[np.int64], classes: Sequence[str]) -> Table:
    """A confusion matrix (K, K) as rows of a class, a predicted class and their number of images, which is not 0."""
    pairs = zip(*np.nonzero(matrix), strict=True)
    return Table([{"class": classes[i], "predicted": classes[j], "images": int(matrix[i, j])} for i, j in pairs])


def confusion_matrix(labels: NDArray[np.int64], predicted: NDArray[np.int64], n_classes: int) -> NDArray[np.int64]:
    """How many images of class i were classified as class j, (K, K), for labels and predictions (N,)."""
    matrix = np.zeros((n_classes, n_classes), np.int64)
    np.add.at(matrix, (labels, predicted), 1)
    return matrix
