"""STL-10 (Coates, Ng and Lee 2011), its labeled images, from the official binary files."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from igpt.data.sources.archive_files import damage_named, open_member, read_rows
from igpt.data.sources.downloads import Archive
from igpt.data.sources.official import OfficialSource
from igpt.data.sources.splits import Numbers
from igpt.errors import IgptError


@functools.lru_cache(maxsize=1)  # stays open: reading on is quicker than unpacking up to the same place again
def _open_images(place: Path, name: str) -> IO[bytes]:
    return open_member(place, name)


@dataclass(frozen=True, kw_only=True)
class STL10Source(OfficialSource):
    """5,000 images to train on and 8,000 to test on, 96x96, in ten classes; the unlabeled ones are not used.

    `fold` (0 to 9) takes one of the official folds of 1,000 images for the training images. Validation images are
    then held out of the fold too, since the others are not to be looked at; with `full_train` all 1,000 are trained on.
    """

    name: ClassVar[str] = "stl10"
    classes: ClassVar[tuple[str, ...]] = (
        "airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck",
    )  # fmt: skip
    side: ClassVar[int] = 96
    parts: ClassVar[dict[str, tuple[str, ...]]] = {"train": ("train",), "test": ("test",)}
    archive: ClassVar[Archive] = Archive(
        "stl10_binary.tar.gz",
        "http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",
        "md5:91f7769df0f17e558f3565bffb0c7dfb",
        "stl10_binary",
    )

    fold: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fold is not None and not 0 <= self.fold <= 9:
            raise IgptError(f"data.source.fold is {self.fold}; the folds of STL-10 are 0 to 9, or null for all images.")

    def key(self) -> dict[str, Any]:
        return {**super().key(), "fold": self.fold}

    def _given(self) -> dict[str, Numbers]:
        given = super()._given()
        if self.fold is not None:
            given["train"] = given["train"][self._fold_rows()]
        return given

    def _fold_rows(self) -> Numbers:
        place = self.archive.locate(self.root)
        with damage_named(place), open_member(place, "fold_indices.txt") as file:
            return np.sort(np.array(file.read().decode().splitlines()[self.fold or 0].split(), np.int64))

    def _labels(self, part: str) -> Numbers:
        place = self.archive.locate(self.root)
        with damage_named(place), open_member(place, f"{part}_y.bin") as file:
            return np.frombuffer(file.read(), np.uint8).astype(np.int64) - 1

    def _images(self, part: str, rows: Numbers) -> NDArray[np.uint8]:
        place = self.archive.locate(self.root)
        with damage_named(place):
            pixels = read_rows(_open_images(place, f"{part}_X.bin"), rows, 3 * 96 * 96)
        return pixels.reshape(-1, 3, 96, 96).transpose(0, 3, 2, 1)  # stored color by color, column by column
