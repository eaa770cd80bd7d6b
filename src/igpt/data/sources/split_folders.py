"""Which folders of a folder of images are splits. A layout with two possible meanings is refused with advice."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path

from igpt.data.image_files import is_image_name
from igpt.data.sources.splits import SPLIT_NAMES, split_named
from igpt.errors import IgptError, some_of

log = logging.getLogger(__name__)

TREAT_AS_CLASSES = "data.source.split_folders=false, which treats all folders as classes"


def find_splits(root: Path, val_is_test: bool) -> dict[str, str]:
    """The folder of each split that has one, `train` at least; "." means that `root` is one pool of images."""
    folders = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
    found: dict[str, str] = {}
    for name in folders:
        split = split_named(name)
        if split in found:
            raise IgptError(f"{root} has both {found[split]} and {name} for {split} images; keep one of them.")
        if split is not None:
            found[split] = name
    found = {split: found[split] for split in SPLIT_NAMES if split in found}
    if val_is_test:
        return _val_as_test(root, found)
    if not found:
        _refuse_split_like_names(root, folders)
        return {"train": "."}
    _refuse_splits_beside_classes(root, found, [name for name in folders if name not in found.values()])
    return found


def _val_as_test(root: Path, found: dict[str, str]) -> dict[str, str]:
    for split, name in (("train", "train"), ("validation", "val")):
        if split not in found:
            raise IgptError(f"data.source.val_is_test needs folders train and val, and {root} has no {name}.")
    return {"train": found["train"], "test": found["validation"]}


def _refuse_splits_beside_classes(root: Path, found: dict[str, str], others: list[str]) -> None:
    others = [name for name in others if _has_images(root / name)]
    splits = " and ".join(found.values())
    beside = f" beside {some_of(others)}" if others else ""
    if "train" not in found:
        raise IgptError(
            f"{root} has {splits}{beside}, but no train; move the training images into a folder train, or set "
            f"{TREAT_AS_CLASSES}."
        )
    if others and len(found) == 1:
        raise IgptError(
            f"{root} has {splits}{beside}; move the others into {splits} if they are classes, or elsewhere, or set "
            f"{TREAT_AS_CLASSES}."
        )
    if others:
        log.info("%s has %s%s, whose images are not used.", root, splits, beside)


def _has_images(folder: Path) -> bool:
    return any(is_image_name(name) for _, _, files in os.walk(folder) for name in files)


def _refuse_split_like_names(root: Path, folders: list[str]) -> None:
    """Folders such as train_images and test_images are probably splits."""
    train = [name for name in folders if _has_word(name, ("train",))]
    held_out = [name for name in folders if _has_word(name, ("test", "val"))]
    if train and held_out:
        raise IgptError(
            f"{root} has the folders {some_of([*train, *held_out])}; name them train, validation and test if they are "
            f"splits, or set {TREAT_AS_CLASSES}."
        )


def _has_word(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(word.startswith(prefixes) for word in re.findall("[a-z]+", name.lower()))


def refuse_nested_splits(root: Path, files: Iterable[str]) -> None:
    """Folders train and test inside the folders of a pool are probably splits, too."""
    nested = sorted({tuple(parts[:2]) for file in files if len(parts := Path(file).parts) > 2})
    splits = {split_named(name) for _, name in nested}
    if "train" in splits and splits & {"validation", "test"}:
        outer, inner = next(pair for pair in nested if split_named(pair[1]))
        raise IgptError(
            f"{root} has splits inside other folders ({outer}/{inner}); set data.source.path={root / outer} if all "
            f"images are there, or move {inner}, or set {TREAT_AS_CLASSES}."
        )
