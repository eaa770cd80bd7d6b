"""Splits that a data set lacks: held out from its training images at random, by a fixed seed."""

from __future__ import annotations

import dataclasses
import functools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from igpt.data.sources.source import SPLITS, Chunk, ImageFile, ImageSource
from igpt.errors import IgptError

VALIDATION_NAMES = ("validation", "val", "valid", "dev")
SPLIT_NAMES = {"train": ("train", "training"), "validation": VALIDATION_NAMES, "test": ("test", "testing")}

Indices = NDArray[np.int64]


def split_named(folder: str) -> str | None:
    """The split that a folder's name usually means, in upper or lower case."""
    return next((split for split, names in SPLIT_NAMES.items() if folder.lower() in names), None)


def hold_out(pool: Indices, share: float, seed: int, groups: Indices | None = None) -> tuple[Indices, Indices]:
    """Split a pool of image indices at random into (kept, held out), both ascending; at least one image is held out.

    `groups` has the group of every image by its index (-1 for none). Images of a group stay together, so slightly more
    than the share may be held out.
    """
    if not 0 < share < 1:
        raise IgptError(f"The share of images to hold out is {share}; it must lie between 0 and 1.")
    n = max(1, round(share * len(pool)))
    units = _units(pool, groups)
    order = np.random.Generator(np.random.Philox(key=seed)).permutation(units.max(initial=-1) + 1)
    sizes = np.bincount(units)[order]
    n_units = int(np.searchsorted(np.cumsum(sizes), n)) + 1
    held_out = np.isin(units, order[:n_units])
    if held_out.all():
        units_text = "images" if groups is None else f"images, in groups ({len(order)}) that stay together,"
        raise IgptError(
            f"Holding out {held_out.sum()} of {len(pool)} {units_text} leaves none to train on; give more images."
        )
    return np.sort(pool[~held_out]), np.sort(pool[held_out])


def _units(pool: Indices, groups: Indices | None) -> Indices:
    """The unit of each image of a pool that is held out as a whole: its group, or the image alone.

    Units are numbered from 0 in the order of first appearance.
    """
    if groups is None:
        return np.arange(len(pool))
    names = np.where(groups[pool] < 0, -1 - pool, groups[pool])
    _, first, inverse = np.unique(names, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def complete_splits(
    provided: Mapping[str, Indices],
    validation_share: float,
    test_share: float,
    seed: int,
    full_train: bool,
    groups: Indices | None = None,
) -> dict[str, Indices]:
    """All three splits from the `provided` ones: a missing one is held out from `train`, the test images first.

    Images of a group (see :func:`hold_out`) stay together. `full_train` also trains on the validation images, which
    remain the validation split.
    """
    splits = dict(provided)
    for split, share in (("test", test_share), ("validation", validation_share)):
        if split not in splits:
            splits["train"], splits[split] = hold_out(splits["train"], share, seed, groups)
    if full_train:
        splits["train"] = np.sort(np.concatenate([splits["train"], splits["validation"]]))
    return {split: splits[split] for split in SPLITS}


def consecutive_indices(sizes: Mapping[str, int]) -> dict[str, Indices]:
    """Indices of the images of each split, if the splits are concatenated in the order of `sizes`."""
    ends = np.cumsum(list(sizes.values()))
    return {
        split: np.arange(end - size, end, dtype=np.int64)
        for (split, size), end in zip(sizes.items(), ends, strict=True)
    }


def rows_by_part(indices: Indices, sizes: Sequence[int]) -> Iterator[tuple[int, Indices]]:
    """The part and the rows in it that ascending `indices` mean, if parts of these `sizes` are concatenated."""
    ends = np.cumsum(sizes)
    parts = np.searchsorted(ends, indices, side="right")
    for part in np.unique(parts):
        yield int(part), indices[parts == part] - (ends[part] - sizes[part])


@dataclass(frozen=True, kw_only=True)
class SplitSource(ABC):
    """A source that holds out the splits its data lack, `validation_share` and `test_share`, from the training images.

    Which images these are depends on `split_seed`, not on the seed of a run. `full_train` trains on the validation
    images too, as the paper does once the settings are chosen (section 3.1).
    """

    resolution: int = 32
    validation_share: float = 0.1
    test_share: float = 0.1
    full_train: bool = False
    split_seed: int = 0

    @abstractmethod
    def _provided_splits(self) -> dict[str, Indices]:
        """Indices of the images in each split that the data come with, `train` at least."""

    @abstractmethod
    def _read_images(self, indices: Indices) -> Chunk:
        """The images with these ascending indices."""

    def _groups(self) -> Indices | None:
        """The group of each image by its index, -1 for none; the images of a group stay in one split."""
        return None

    def files(self) -> dict[str, list[ImageFile]]:
        return {}

    def sizes(self) -> dict[str, int]:
        return {split: len(indices) for split, indices in self._splits.items()}

    def read(self, split: str, start: int, stop: int) -> Chunk:
        return self._read_images(self._splits[split][start:stop])

    def _split_settings(self) -> dict[str, Any]:
        """The part of the key that all these sources share."""
        names = ("resolution", "validation_share", "test_share", "full_train", "split_seed")
        return {name: getattr(self, name) for name in names}

    @functools.cached_property
    def _splits(self) -> dict[str, Indices]:
        shares = (self.validation_share, self.test_share)
        return complete_splits(self._provided_splits(), *shares, self.split_seed, self.full_train, self._groups())


def at_resolution(source: ImageSource, resolution: int) -> ImageSource:
    """The same source at another resolution; what it has cached about its files is kept."""
    other: ImageSource = dataclasses.replace(source, resolution=resolution)  # type: ignore[type-var]
    if isinstance(source, SplitSource):  # none of its cached properties depends on the resolution
        vars(other).update({name: value for name, value in vars(source).items() if name not in vars(other)})
    return other
