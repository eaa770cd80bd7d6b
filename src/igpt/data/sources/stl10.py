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
from igpt.data.sources.splits import Indices
from igpt.errors import IgptError


@functools.lru_cache(maxsize=1)  # stays open, since reopening unpacks everything before the next row again
def _open_images(path: Path, name: str) -> IO[bytes]:
    return open_member(path, name)


@dataclass(frozen=True, kw_only=True)
class STL10Source(OfficialSource):
    """5,000 training and 8,000 test images of 96x96 in ten classes; the unlabeled images are not used.

    `fold` (0 to 9) trains on one of the official folds of 1,000 images. Validation images are then held out from the
    fold, since the protocol uses no other labels. With `full_train`, the model trains on all 1,000.
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

    def _provided_splits(self) -> dict[str, Indices]:
        splits = super()._provided_splits()
        if self.fold is not None:
            splits["train"] = splits["train"][self._fold_rows()]
        return splits

    def _fold_rows(self) -> Indices:
        path = self.archive.locate(self.root)
        with damage_named(path), open_member(path, "fold_indices.txt") as file:
            folds = file.read().decode().splitlines()
            return np.sort(np.array(folds[self.fold or 0].split(), np.int64))

    def _labels(self, part: str) -> Indices:
        path = self.archive.locate(self.root)
        with damage_named(path), open_member(path, f"{part}_y.bin") as file:
            return np.frombuffer(file.read(), np.uint8).astype(np.int64) - 1

    def _images(self, part: str, rows: Indices) -> NDArray[np.uint8]:
        path = self.archive.locate(self.root)
        with damage_named(path):
            pixels = read_rows(_open_images(path, f"{part}_X.bin"), rows, 3 * 96 * 96)
        return pixels.reshape(-1, 3, 96, 96).transpose(0, 3, 2, 1)  # stored by channel, column and row
