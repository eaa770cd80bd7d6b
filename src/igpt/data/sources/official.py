"""Data sets in the files that their authors publish: official training and test images, in one or more parts."""

from __future__ import annotations

import functools
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from igpt.data.sources.downloads import data_root
from igpt.data.sources.resize import area_average
from igpt.data.sources.source import Chunk
from igpt.data.sources.splits import Indices, SplitSource, consecutive_indices, rows_by_part
from igpt.errors import IgptError


@dataclass(frozen=True, kw_only=True)
class OfficialSource(SplitSource):
    """Images of `side` x `side`. A lower `resolution` must divide `side`; its pixels are averages over blocks.

    `root` is the folder of downloaded data, by default IGPT_DATA or ~/.cache/igpt/data.
    """

    name: ClassVar[str]
    classes: ClassVar[tuple[str, ...]]
    side: ClassVar[int]
    parts: ClassVar[dict[str, tuple[str, ...]]]  # names of the parts of the official training and test images

    root: str | None = None

    def __post_init__(self) -> None:
        if self.resolution < 4 or self.side % self.resolution:
            raise IgptError(
                f"data.source.resolution is {self.resolution}; {self.name} has images of {self.side}x{self.side}, so "
                f"it must be a divisor of {self.side} and at least 4."
            )

    @property
    def origin(self) -> str:
        return str(data_root(self.root))

    def key(self) -> dict[str, Any]:
        return {"source": self.name, **self._split_settings()}

    @abstractmethod
    def _labels(self, part: str) -> Indices:
        """The label of each image of a part, from 0 on."""

    @abstractmethod
    def _images(self, part: str, rows: Indices) -> NDArray[np.uint8]:
        """The images in ascending `rows` of a part, (n, side, side, 3)."""

    def _provided_splits(self) -> dict[str, Indices]:
        labels = self._labels_by_part
        sizes = {split: sum(len(labels[part]) for part in parts) for split, parts in self.parts.items()}
        return consecutive_indices(sizes)

    def _read_images(self, indices: Indices) -> Chunk:
        names, labels_by_part = list(self._labels_by_part), list(self._labels_by_part.values())
        images = [np.empty((0, self.resolution, self.resolution, 3), np.uint8)]
        labels = [np.empty(0, np.int64)]
        for part, rows in rows_by_part(indices, [len(part_labels) for part_labels in labels_by_part]):
            images.append(area_average(self._images(names[part], rows), self.resolution))
            labels.append(labels_by_part[part][rows])
        return Chunk(np.concatenate(images), np.concatenate(labels))

    @functools.cached_property
    def _labels_by_part(self) -> dict[str, Indices]:
        """All labels. They are pickled with the source, so that packing processes need not read them again."""
        return {part: self._labels(part) for parts in self.parts.values() for part in parts}
