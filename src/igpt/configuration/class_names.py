"""What a configuration says of classes, checked against those that the data have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from igpt.configuration.suggestions import resembling
from igpt.errors import IgptError, some_of

if TYPE_CHECKING:
    from igpt.data.datamodule import ImageDataModule


def class_number(choice: int | str | None, classes: Sequence[str], key: str) -> int | None:
    """The number of the class that is named, or numbered, at a `key` of the configuration; None is any."""
    if choice is None:
        return None
    if not classes:
        raise IgptError(f"{key} is {choice}, but the data have no classes; set {key}=null.")
    if isinstance(choice, int) and choice < len(classes):
        return choice
    if str(choice) in classes:
        return classes.index(str(choice))
    closest = resembling(str(choice), list(classes))
    suggestion = f"did you mean {closest}? The" if closest else "the"
    names = some_of(classes, 12)
    raise IgptError(
        f"{key} is {choice}, which is none of the {len(classes)} classes; {suggestion} classes are {names}."
    )


def number_classes(config: DictConfig, data: ImageDataModule) -> None:
    """Put the numbers of classes where a training's configuration names them; refuse what needs classes, if the data
    have none.
    """
    classes = data.source.classes
    if config.objective["_target_"].endswith(".ClassificationObjective"):
        require_classes(data, "objective=classify")
    callbacks = {name: part for name, part in (config.callbacks or {}).items() if part is not None}
    if any(part["_target_"].endswith(".OnlineProbe") for part in callbacks.values()):
        require_classes(data, "an online probe")
    config.showcase_class = class_number(config.showcase_class, classes, "showcase_class")
    for name, part in callbacks.items():
        if "label" in part:
            part.label = class_number(part.label, classes, f"callbacks.{name}.label")


def require_classes(data: ImageDataModule, what: str) -> None:
    """Refuse data without classes for something that needs them."""
    if not data.source.classes:
        raise IgptError(f"The data '{data.source.name}' has no labels, which {what} needs; choose data with classes.")


def require_images_of(data: ImageDataModule, label: int | None, key: str) -> None:
    """Refuse a class to show that has no image in the splits which are shown."""
    for split in ("validation", "test"):
        if label is not None and not (data.splits[split].labels == label).any():
            name = data.source.classes[label]
            raise IgptError(f"{key} is {name}, of which the {split} split has no image; choose another class, or null.")


def require_labels(data: ImageDataModule, per_class: Sequence[int]) -> None:
    """Refuse to draw more labeled training images of each class than the rarest has."""
    import numpy as np

    labels = data.splits["train"].labels
    counts = np.bincount(labels[labels >= 0], minlength=len(data.source.classes))
    rarest = int(counts.argmin())
    for n in per_class:
        if n > counts[rarest]:
            raise IgptError(
                f"labels_per_class asks for {n} images of each class, but class {data.source.classes[rarest]} has "
                f"{counts[rarest]} to train on; ask for fewer, or leave the class out."
            )
