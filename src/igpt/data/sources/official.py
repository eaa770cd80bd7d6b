"""Data sets in the files their authors publish: official training and test images, in one or more parts."""

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
from igpt.data.sources.splits import Numbers, SplitSource, by_part, end_to_end
from igpt.errors import IgptError


@dataclass(frozen=True, kw_only=True)
class OfficialSource(SplitSource):
    """Images of `side` x `side`; a smaller `resolution` that divides `side` is an average over areas.

    `root` is the folder of downloaded data, by default IGPT_DATA or ~/.cache/igpt/data.
    """

    name: ClassVar[str]
    classes: ClassVar[tuple[str, ...]]
    side: ClassVar[int]
    parts: ClassVar[dict[str, tuple[str, ...]]]  # names of the parts of the official train and test images

    root: str | None = None

    def __post_init__(self) -> None:
        if self.resolution < 4 or self.side % self.resolution:
            raise IgptError(
                f"data.source.resolution is {self.resolution}; {self.name} has images of {self.side}x{self.side} and "
                "comes at any resolution of at least 4 that divides this."
            )

    @property
    def origin(self) -> str:
        return str(data_root(self.root))

    def key(self) -> dict[str, Any]:
        return {"source": self.name, **self._key()}

    @abstractmethod
    def _labels(self, part: str) -> Numbers:
        """The label of each image of a part, from 0 on."""

    @abstractmethod
    def _images(self, part: str, rows: Numbers) -> NDArray[np.uint8]:
        """Ascending rows of a part as (n, side, side, 3)."""

    def _given(self) -> dict[str, Numbers]:
        labels = self._part_labels
        return end_to_end({split: sum(len(labels[part]) for part in parts) for split, parts in self.parts.items()})

    def _take(self, numbers: Numbers) -> Chunk:
        names, all_labels = list(self._part_labels), list(self._part_labels.values())
        images, labels = [np.empty((0, self.resolution, self.resolution, 3), np.uint8)], [np.empty(0, np.int64)]
        for part, rows in by_part(numbers, [len(part_labels) for part_labels in all_labels]):
            images.append(area_average(self._images(names[part], rows), self.resolution))
            labels.append(all_labels[part][rows])
        return Chunk(np.concatenate(images), np.concatenate(labels))

    @functools.cached_property
    def _part_labels(self) -> dict[str, Numbers]:
        """All labels by part; travels with the source to other processes, which then need not look for them."""
        return {part: self._labels(part) for parts in self.parts.values() for part in parts}
