"""Splits that a data set lacks, drawn from its training images by a fixed seed."""

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

VALIDATION_NAMES = ("validation", "val", "valid", "dev")  # what others call the validation split
SPLIT_NAMES = {"train": ("train", "training"), "validation": VALIDATION_NAMES, "test": ("test", "testing")}

Numbers = NDArray[np.int64]


def split_of(folder: str) -> str | None:
    """The split that people mean by a folder's name, in upper or lower case."""
    return next((split for split, names in SPLIT_NAMES.items() if folder.lower() in names), None)


def hold_out(pool: Numbers, share: float, seed: int, groups: Numbers | None = None) -> tuple[Numbers, Numbers]:
    """Cut a pool of image numbers in two, (kept, held), both ascending; at least one image is held.

    `groups` has the group of each number there is (-1 for none): images of a group stay together, so somewhat more than
    the share may be held.
    """
    if not 0 < share < 1:
        raise IgptError(f"The share of images to hold out is {share}; it must lie between 0 and 1.")
    n = max(1, round(share * len(pool)))
    units = _together(pool, groups)
    order = np.random.Generator(np.random.Philox(key=seed)).permutation(units.max(initial=-1) + 1)
    sizes = np.bincount(units)[order]
    n_units = int(np.searchsorted(np.cumsum(sizes), n)) + 1
    held = np.isin(units, order[:n_units])
    if held.all():
        n, kind = held.sum(), "images" if groups is None else f"images, in groups ({len(order)}) that stay together,"
        raise IgptError(f"Holding out {n} of {len(pool)} {kind} leaves none to train on; give more images.")
    return np.sort(pool[~held]), np.sort(pool[held])


def _together(pool: Numbers, groups: Numbers | None) -> Numbers:
    """A number for each image of a pool, from 0 on in the order of the pool, equal for images of one group."""
    if groups is None:
        return np.arange(len(pool))
    alone = groups[pool] < 0
    names = np.where(alone, -1 - pool, groups[pool])
    _, first, inverse = np.unique(names, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def divide(
    given: Mapping[str, Numbers],
    validation_share: float,
    test_share: float,
    seed: int,
    full_train: bool,
    groups: Numbers | None = None,
) -> dict[str, Numbers]:
    """All three splits from the `given` ones: what is missing is drawn from `train`, the test images first.

    Images of a group (see :func:`hold_out`) stay together. `full_train` puts the validation images back among those to
    train on; as the validation split they stay.
    """
    splits = dict(given)
    for split, share in (("test", test_share), ("validation", validation_share)):
        if split not in splits:
            splits["train"], splits[split] = hold_out(splits["train"], share, seed, groups)
    if full_train:
        splits["train"] = np.sort(np.concatenate([splits["train"], splits["validation"]]))
    return {split: splits[split] for split in SPLITS}


def end_to_end(sizes: Mapping[str, int]) -> dict[str, Numbers]:
    """Numbers of the images of splits that are laid end to end in the order of `sizes`."""
    ends = np.cumsum(list(sizes.values()))
    return {
        split: np.arange(end - size, end, dtype=np.int64)
        for (split, size), end in zip(sizes.items(), ends, strict=True)
    }


def by_part(numbers: Numbers, sizes: Sequence[int]) -> Iterator[tuple[int, Numbers]]:
    """Which rows of which part ascending `numbers` mean, if parts of these `sizes` are laid end to end."""
    ends = np.cumsum(sizes)
    parts = np.searchsorted(ends, numbers, side="right")
    for part in np.unique(parts):
        yield int(part), numbers[parts == part] - (ends[part] - sizes[part])


@dataclass(frozen=True, kw_only=True)
class SplitSource(ABC):
    """A source that draws the splits its data lacks, `validation_share` and `test_share`, from the training images.

    The draw depends on `split_seed` alone, not on the seed of a run. `full_train` trains on the validation images too,
    as the paper does once the settings are found (section 3.1).
    """

    resolution: int = 32
    validation_share: float = 0.1
    test_share: float = 0.1
    full_train: bool = False
    split_seed: int = 0

    @abstractmethod
    def _given(self) -> dict[str, Numbers]:
        """Numbers of the images in each split that the data comes with, `train` at least."""

    @abstractmethod
    def _take(self, numbers: Numbers) -> Chunk:
        """The images with these ascending numbers."""

    def _groups(self) -> Numbers | None:
        """The group of each image by its number, -1 for one that stands alone; groups are not divided."""
        return None

    def files(self) -> dict[str, list[ImageFile]]:
        return {}

    def sizes(self) -> dict[str, int]:
        return {split: len(numbers) for split, numbers in self._splits.items()}

    def read(self, split: str, start: int, stop: int) -> Chunk:
        return self._take(self._splits[split][start:stop])

    def _key(self) -> dict[str, Any]:
        """What every key has in it."""
        names = ("resolution", "validation_share", "test_share", "full_train", "split_seed")
        return {name: getattr(self, name) for name in names}

    @functools.cached_property
    def _splits(self) -> dict[str, Numbers]:
        shares = (self.validation_share, self.test_share)
        return divide(self._given(), *shares, self.split_seed, self.full_train, self._groups())


def at_resolution(source: ImageSource, resolution: int) -> ImageSource:
    """The same images at another resolution; what is known of their files is not looked for again."""
    other: ImageSource = dataclasses.replace(source, resolution=resolution)  # type: ignore[type-var]
    if isinstance(source, SplitSource):  # nothing that these keep depends on the resolution
        vars(other).update({name: value for name, value in vars(source).items() if name not in vars(other)})
    return other
