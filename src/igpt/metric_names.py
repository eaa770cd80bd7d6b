"""The values that igpt logs: their names, what they are, and which of two values is the better one.

The first part of a name, such as train/, is the panel of a tracker that shows it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

Goal = Literal["min", "max"]

STEPS = "trainer/global_step"  # Lightning's name
LAYER = "probe/layer"
IMAGES_PER_SECOND = "speed/images_per_second"
MFU = "speed/mfu"
IMAGES, FLOPS = "data/images", "data/flops"  # so far; charts may have them as their x axis, instead of steps


@dataclass(frozen=True)
class Metric:
    """A logged value. In the `name` of a family of values, * stands for a layer, a class, or a kind of features.

    `goal` says whether the least or the greatest value is the best; None: neither. `x_axis` is the metric over which a
    chart shows it.
    """

    name: str
    title: str
    goal: Goal | None = None
    x_axis: str = STEPS

    @property
    def panel(self) -> str:
        return self.name.partition("/")[0]


def _of_images(split: str, images: str) -> Iterator[Metric]:
    """The metrics by which models are compared, on a split."""
    yield Metric(f"{split}/nats_per_token", f"Nats per token, {images}", "min")
    yield Metric(f"{split}/bits_per_token", f"Bits per token, {images}", "min")
    yield Metric(f"{split}/accuracy", f"Accuracy of the classifier, {images}", "max")


METRICS = (
    Metric("train/loss", "Loss that is optimized", "min"),
    *_of_images("train", "training images of the step"),
    Metric("train/class_loss", "Cross-entropy of the classes, training images of the step", "min"),
    Metric("train/grad_norm", "Norm of the gradients, before clipping"),
    Metric("train/lr", "Learning rate of the first group of parameters"),
    *_of_images("val", "validation images"),
    *_of_images("val_ema", "validation images, averaged weights"),
    *_of_images("test", "test images"),
    Metric("test/standard_error", "Standard error of the nats per token, test images"),
    Metric("test/bits_per_dimension", "Bits per dimension, test images", "min"),
    Metric("test/accuracy_standard_error", "Standard error of the accuracy, test images"),
    Metric("test/images", "Test images"),
    Metric("test/labeled_images", "Test images with a class"),
    Metric("val_class/*", "Nats per token of class *, validation images", "min"),
    Metric("gradients/*", "Norm of the gradient of *, before clipping"),
    Metric("updates/*", "Norm of the update of *, divided by that of the weights"),
    Metric("probe/layer_*", "Accuracy of a linear probe on layer *, validation images", "max"),
    Metric(LAYER, "Layer"),
    Metric("probe/*/validation_accuracy", "Accuracy of a linear probe on * features, validation images", "max", LAYER),
    Metric("probe/*/test_accuracy", "Accuracy of a linear probe on * features, test images", "max", LAYER),
    Metric(
        "probe/*/test_balanced_accuracy",
        "Mean over the classes of the accuracy on * features, test images",
        "max",
        LAYER,
    ),
    Metric(
        "probe/*/validation_knn_accuracy",
        "Accuracy of nearest neighbors on * features, validation images",
        "max",
        LAYER,
    ),
    Metric("probe/*/test_knn_accuracy", "Accuracy of nearest neighbors on * features, test images", "max", LAYER),
    Metric(
        "probe/*/validation_attentive_accuracy",
        "Accuracy of attention pooling on * features, validation images",
        "max",
        LAYER,
    ),
    Metric("probe/*/test_attentive_accuracy", "Accuracy of attention pooling on * features, test images", "max", LAYER),
    Metric(IMAGES_PER_SECOND, "Images per second"),
    Metric("speed/tokens_per_second", "Tokens per second"),
    Metric("speed/flops_per_second", "FLOPs per second of the model"),
    Metric(MFU, "Share of the device's peak FLOPs per second (MFU)"),
    Metric("speed/peak_memory_gb", "Peak memory of the process, GB"),
    Metric(IMAGES, "Images that were trained on"),
    Metric(FLOPS, "FLOPs of the model in training"),
)


def find_metric(name: str) -> Metric | None:
    """The metric of a logged name; None for a name that is not igpt's, such as one that a task of the user's logs."""
    return next((metric for metric in METRICS if fnmatchcase(name, metric.name)), None)


def goal_of(name: str) -> Goal | None:
    """Whether the least or the greatest value of a metric is the best one; None if neither is, or it is not igpt's."""
    metric = find_metric(name)
    return None if metric is None else metric.goal


def monitored_goal(config: Mapping[str, Any]) -> Goal | None:
    """The goal of the monitored metric of a stored configuration, whose `monitor_mode` may be an interpolation."""
    mode = config.get("monitor_mode")
    return mode if mode in ("min", "max") else goal_of(config.get("monitor", ""))
