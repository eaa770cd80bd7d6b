"""Which folders of a folder of images are splits. A layout that can be meant in two ways is refused with a hint."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path

from igpt.data.image_files import is_image_name
from igpt.data.sources.splits import SPLIT_NAMES, split_of
from igpt.errors import IgptError, some_of

log = logging.getLogger(__name__)

ALL_CLASSES = "data.source.split_folders=false, which takes all folders for classes"


def find_splits(root: Path, val_is_test: bool) -> dict[str, str]:
    """The folder of each split that has one, `train` at least; "." stands for `root` as one pool of images."""
    folders = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
    named: dict[str, str] = {}
    for name in folders:
        split = split_of(name)
        if split in named:
            raise IgptError(f"{root} has both {named[split]} and {name} for {split} images; keep one of them.")
        if split is not None:
            named[split] = name
    named = {split: named[split] for split in SPLIT_NAMES if split in named}
    if val_is_test:
        return _val_as_test(root, named)
    if not named:
        _refuse_split_like_names(root, folders)
        return {"train": "."}
    _refuse_splits_beside_classes(root, named, [name for name in folders if name not in named.values()])
    return named


def _val_as_test(root: Path, named: dict[str, str]) -> dict[str, str]:
    for split, name in (("train", "train"), ("validation", "val")):
        if split not in named:
            raise IgptError(f"data.source.val_is_test needs folders train and val, and {root} has no {name}.")
    return {"train": named["train"], "test": named["validation"]}


def _refuse_splits_beside_classes(root: Path, named: dict[str, str], others: list[str]) -> None:
    others = [name for name in others if _has_images(root / name)]
    splits = " and ".join(named.values())
    beside = f" beside {some_of(others)}" if others else ""
    if "train" not in named:
        raise IgptError(
            f"{root} has {splits}{beside}, but no train; move the images to train on into a folder train, or set "
            f"{ALL_CLASSES}."
        )
    if others and len(named) == 1:
        raise IgptError(
            f"{root} has {splits}{beside}; move the others into {splits} if they are classes, or elsewhere, or set "
            f"{ALL_CLASSES}."
        )
    if others:
        log.info("%s has %s%s, whose images are not used.", root, splits, beside)


def _has_images(folder: Path) -> bool:
    return any(is_image_name(name) for _, _, files in os.walk(folder) for name in files)


def _refuse_split_like_names(root: Path, folders: list[str]) -> None:
    """Folders such as train_images and test_images are meant as splits."""
    train = [name for name in folders if _has_word(name, ("train",))]
    held_out = [name for name in folders if _has_word(name, ("test", "val"))]
    if train and held_out:
        raise IgptError(
            f"{root} has the folders {some_of([*train, *held_out])}; name them train, validation and test if they are "
            f"splits, or set {ALL_CLASSES}."
        )


def _has_word(name: str, beginnings: tuple[str, ...]) -> bool:
    return any(word.startswith(beginnings) for word in re.findall("[a-z]+", name.lower()))


def refuse_splits_inside(root: Path, files: Iterable[str]) -> None:
    """Folders train and test inside the folders of a pool are meant as splits, too."""
    inside = sorted({tuple(parts[:2]) for file in files if len(parts := Path(file).parts) > 2})
    meant = {split_of(name) for _, name in inside}
    if "train" in meant and meant & {"validation", "test"}:
        outer, inner = next(pair for pair in inside if split_of(pair[1]))
        raise IgptError(
            f"{root} has splits inside of other folders ({outer}/{inner}); set "
            f"data.source.path={root / outer} if everything is in there, or move {inner}, or set {ALL_CLASSES}."
        )
