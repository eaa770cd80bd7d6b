"""The bundled emoji: a small data set that needs no network."""

from __future__ import annotations

import csv
import functools
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from igpt.data.sources.resize import area_average
from igpt.data.sources.source import SPLITS, Chunk, ImageFile
from igpt.errors import IgptError


@dataclass(frozen=True)
class EmojiSource:
    """The bundled Noto Emoji: 3,781 images in nine classes, split so that variants of one emoji stay together.

    `resolution` is 32, 16 or 8; at the lower ones, pixels are averages over blocks.
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
            raise IgptError(f"data.source.resolution is {self.resolution}; it must be 8, 16 or 32 for the emoji.")

    def key(self) -> dict[str, Any]:
        labels = {} if self.classes else {"labels": False}
        return {"source": "emoji-datasource-google 16.0.0", "resolution": self.resolution, **labels}

    @property
    def origin(self) -> str:
        return "bundled"

    def files(self) -> dict[str, list[ImageFile]]:
        return {}

    def sizes(self) -> dict[str, int]:
        splits = [row["split"] for row in self._rows]
        return {split: splits.count(split) for split in SPLITS}

    def read(self, split: str, start: int, stop: int) -> Chunk:
        chosen = [i for i, row in enumerate(self._rows) if row["split"] == split][start:stop]
        rows = [self._rows[i] for i in chosen]
        labels = np.array([self.classes.index(row["group"]) if self.classes else -1 for row in rows], np.int64)
        variants = np.array([self._bases[row["base"]] for row in rows], np.int64)
        return Chunk(area_average(self._sheet[chosen], self.resolution), labels, groups=variants)

    @functools.cached_property
    def _rows(self) -> list[dict[str, str]]:
        text = (resources.files("igpt.data.emoji") / "emoji.csv").read_text(encoding="utf-8")
        return list(csv.DictReader(text.splitlines()))

    @functools.cached_property
    def _bases(self) -> dict[str, int]:
        """The number of each base emoji, which its variants (skin tone, gender, direction) share."""
        return {base: number for number, base in enumerate(sorted({row["base"] for row in self._rows}))}

    @functools.cached_property
    def _sheet(self) -> NDArray[np.uint8]:
        """The cells of the sheet row by row, (n, 32, 32, 3)."""
        with (resources.files("igpt.data.emoji") / "emoji.png").open("rb") as file:
            sheet = np.asarray(Image.open(file))
        height, width, _ = sheet.shape
        cells = sheet.reshape(height // 32, 32, width // 32, 32, 3).swapaxes(1, 2)  # (rows, columns, 32, 32, 3)
        return cells.reshape(-1, 32, 32, 3)
