"""Classes that a configuration names, looked up in the classes of the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hydra.utils import get_object
from omegaconf import DictConfig

from igpt.configuration.suggestions import resembling
from igpt.errors import IgptError, some_of

if TYPE_CHECKING:
    from igpt.data.datamodule import ImageDataModule


def class_number(choice: int | str | None, classes: Sequence[str], key: str) -> int | None:
    """The index of the class that the configuration gives at `key` by its name or its index; None means any class."""
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
        f"{key} is {choice}, which is not one of the {len(classes)} classes; {suggestion} classes are {names}."
    )


def number_classes(config: DictConfig, data: ImageDataModule) -> None:
    """Replace the names of classes in igpt-train's configuration by their indices, in place.

    Raises :class:`IgptError` if the data have no classes and a part of the configuration needs them.
    """
    classes = data.source.classes
    if needs_classes(config.objective):
        require_classes(data, "objective=classify")
    callbacks = {name: part for name, part in (config.get("callbacks") or {}).items() if part is not None}
    if any(needs_classes(part) for part in callbacks.values()):
        require_classes(data, "an online probe")
    config.image_class = class_number(config.image_class, classes, "image_class")
    for name, part in callbacks.items():
        if "image_class" in part:
            part.image_class = class_number(part.image_class, classes, f"callbacks.{name}.image_class")


def needs_classes(part: DictConfig) -> bool:
    """Whether a task or callback of the configuration says that it needs classes."""
    return bool(getattr(get_object(part["_target_"]), "needs_classes", False))


def require_classes(data: ImageDataModule, what: str) -> None:
    """Raise :class:`IgptError` if the data have no classes; `what` needs them."""
    if not data.source.classes:
        raise IgptError(f"The data '{data.source.name}' has no labels, which {what} needs; choose data with classes.")


def require_images_of(data: ImageDataModule, label: int | None, key: str) -> None:
    """Raise :class:`IgptError` if the validation or the test split has no image of the class to show."""
    for split in ("validation", "test"):
        if label is not None and not (data.splits[split].labels == label).any():
            name = data.source.classes[label]
            raise IgptError(
                f"{key} is {name}, but the {split} split has no image of that class; choose another class, or null."
            )


def require_labels(data: ImageDataModule, per_class: Sequence[int]) -> None:
    """Raise :class:`IgptError` if a subset needs more labeled images per class than the rarest class has."""
    import numpy as np

    labels = data.splits["train"].labels
    counts = np.bincount(labels[labels >= 0], minlength=len(data.source.classes))
    rarest = int(counts.argmin())
    for n in per_class:
        if n > counts[rarest]:
            raise IgptError(
                f"labels_per_class asks for {n} images per class, but class {data.source.classes[rarest]} has only "
                f"{counts[rarest]} training images; ask for fewer, or leave the class out."
            )
