"""Where images come from: a source names its splits and hands out their images in chunks."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from igpt.errors import IgptError

SPLITS = ("train", "validation", "test")

Chunk = tuple[NDArray[np.uint8], NDArray[np.int64]]  # images (n, H, W, 3), labels (n,)


class ImageSource(Protocol):
    """Square images in three splits, each with a class; without classes, `classes` is empty and labels are -1."""

    name: str
    resolution: int
    classes: tuple[str, ...]

    def key(self) -> dict[str, Any]:
        """Everything the images depend on; a packed copy is used again only while this stays the same."""

    def sizes(self) -> dict[str, int]:
        """Number of images in each split."""

    def chunks(self, split: str) -> Iterator[Chunk]:
        """The split's images and labels, in a fixed order, a chunk at a time."""


@dataclass(frozen=True)
class EmojiSource:
    """Noto Emoji, bundled: 3,781 images in nine groups, split so that variants of one emoji stay together.

    `resolution` is 32, 16 or 8; the smaller ones are averages over areas.
    """

    resolution: int = 32
    name: str = "emoji"
    classes: tuple[str, ...] = (
        "Smileys & Emotion",
        "People & Body",
        "Animals & Nature",
        "Food & Drink",
        "Travel & Places",
        "Activities",
        "Objects",
        "Symbols",
        "Flags",
    )

    def __post_init__(self) -> None:
        if self.resolution not in (8, 16, 32):
            raise IgptError(f"data.source.resolution is {self.resolution}; the emoji come at 8, 16 or 32.")

    def key(self) -> dict[str, Any]:
        labels = {} if self.classes else {"labels": False}
        return {"source": "emoji-datasource-google 16.0.0", "resolution": self.resolution, **labels}

    def sizes(self) -> dict[str, int]:
        splits = [row["split"] for row in self._rows()]
        return {split: splits.count(split) for split in SPLITS}

    def chunks(self, split: str) -> Iterator[Chunk]:
        rows = self._rows()
        chosen = np.array([row["split"] == split for row in rows])
        groups = [row["group"] for row in rows]
        labels = np.array([self.classes.index(g) if self.classes else -1 for g in groups], np.int64)
        yield area_average(self._sheet()[: len(rows)][chosen], self.resolution), labels[chosen]

    def _rows(self) -> list[dict[str, str]]:
        text = (resources.files("igpt.data.emoji") / "emoji.csv").read_text(encoding="utf-8")
        return list(csv.DictReader(text.splitlines()))

    def _sheet(self) -> NDArray[np.uint8]:
        """All cells of the sheet, (n, 32, 32, 3), row by row."""
        with (resources.files("igpt.data.emoji") / "emoji.png").open("rb") as file:
            sheet = np.asarray(Image.open(file))
        height, width, _ = sheet.shape
        return sheet.reshape(height // 32, 32, width // 32, 32, 3).swapaxes(1, 2).reshape(-1, 32, 32, 3)


def area_average(images: NDArray[np.uint8], resolution: int) -> NDArray[np.uint8]:
    """Images (n, R, R, 3) at a resolution that divides R, by averaging square areas."""
    n, side = images.shape[:2]
    block = side // resolution
    means = images.reshape(n, resolution, block, resolution, block, 3).mean(axis=(2, 4))
    return np.rint(means).astype(np.uint8)
