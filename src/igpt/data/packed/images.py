"""Packed splits, opened for reading."""

from __future__ import annotations

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

    def choose(self, n: int, label: int | None = None) -> NDArray[np.uint8]:
        """At most n images for a figure: the first ones of a class, or evenly spaced over the split."""
        if label is None:
            return self.images[np.linspace(0, len(self) - 1, min(n, len(self))).astype(int)]
        chosen = np.flatnonzero(self.labels == label)[:n]
        if len(chosen) == 0:
            raise IgptError(f"There is no image of class {label} to show; choose another class, or null for any.")
        return self.images[chosen]


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
