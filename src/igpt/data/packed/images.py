"""Packed splits, opened for reading."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from igpt.data.packed.layout import array_file, expected_checksums
from igpt.data.sources import SPLITS
from igpt.errors import IgptError


@dataclass(frozen=True)
class PackedImages:
    """One split: images (n, H, W, 3) uint8, which are read from disk when they are indexed, and labels (n,) int64.

    `groups` (n,) int64 are equal for images that belong together, such as variants of one emoji, and unique otherwise.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    groups: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.images)

    def are_gray(self) -> bool:
        """Whether the three channels of all pixels are equal. Reading stops at the first images with color."""
        chunks = (self.images[first : first + 4096] for first in range(0, len(self), 4096))
        return all((chunk == chunk[..., :1]).all() for chunk in chunks)

    def choose(self, n: int, label: int | None = None) -> NDArray[np.uint8]:
        """At most n images for a figure: the first ones of a class, or evenly spaced over the split."""
        if label is None:
            return self.images[np.linspace(0, len(self) - 1, min(n, len(self))).astype(int)]
        chosen = np.flatnonzero(self.labels == label)[:n]
        if len(chosen) == 0:
            raise IgptError(f"There is no image of class {label} to show; choose another class, or null for any.")
        return self.images[chosen]


@dataclass(frozen=True)
class PackedPhotos:
    """One split of whole photos, whose shorter side has R pixels; iteration yields each as (H, W, 3).

    `rows` (N, R, 3) are the rows of all photos, read from disk when they are indexed. In them the longer side of a
    photo is vertical: a wide one is transposed. `places` (n, 3) are the first row of each photo, its number of rows,
    and whether it is transposed.
    """

    rows: NDArray[np.uint8]
    places: NDArray[np.int64]
    labels: NDArray[np.int64]
    groups: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        for first, length, transposed in self.places.tolist():
            photo = self.rows[first : first + length]
            yield photo.swapaxes(0, 1) if transposed else photo

    def windows(self, first: NDArray[np.int64], height: int) -> NDArray[np.uint8]:
        """The `height` rows from each of the rows `first` (B,) on, (B, height, R, 3), by one indexing operation."""
        n, *row = self.rows.shape
        step, *inner = self.rows.strides
        # A view of the rows, which NumPy checks to be within them.
        windows = np.ndarray((n - height + 1, height, *row), np.uint8, self.rows, strides=(step, step, *inner))
        return windows[first]


def open_packed(folder: Path) -> dict[str, PackedImages]:
    """The splits in `folder`. A missing or truncated file is an :class:`IgptError`; checksums are not verified."""
    expected_checksums(folder)
    return {
        split: PackedImages(
            np.load(array_file(folder, split, "images"), mmap_mode="r"),
            np.load(array_file(folder, split, "labels")),
            np.load(array_file(folder, split, "groups")),
        )
        for split in SPLITS
    }


def open_photos(folder: Path) -> dict[str, PackedPhotos]:
    """The same as :func:`open_packed`, for a folder of whole photos."""
    expected_checksums(folder)
    return {split: _photos(folder, split) for split in SPLITS}


def images_in(folder: Path, split: str) -> Iterable[NDArray[np.uint8]]:
    """The images (H, W, 3) of a split in a folder of either kind, which may be unfinished."""
    if array_file(folder, split, "places").exists():
        return _photos(folder, split)
    images: NDArray[np.uint8] = np.load(array_file(folder, split, "images"), mmap_mode="r")
    return images


def _photos(folder: Path, split: str) -> PackedPhotos:
    return PackedPhotos(
        np.load(array_file(folder, split, "images"), mmap_mode="r"),
        np.load(array_file(folder, split, "places")),
        np.load(array_file(folder, split, "labels")),
        np.load(array_file(folder, split, "groups")),
    )
