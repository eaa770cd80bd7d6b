"""The interface of all sources of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Chunk:
    """Some neighboring images of a split."""

    images: NDArray[np.uint8] | Sequence[NDArray[np.uint8]]  # (n, R, R, 3), or n whole photos (H, W, 3)
    labels: NDArray[np.int64]  # (n,); -1 for an image without a label
    unreadable: dict[int, str] = field(default_factory=dict)  # position in the chunk -> file and reason
    groups: NDArray[np.int64] | None = None  # (n,), equal for images that belong together; -1 for no group


class ImageFile(NamedTuple):
    """A file of a source: its path in the source, its class ("" if it has none), and a hash of its content."""

    path: str
    label: str
    content: str


class ImageSource(Protocol):
    """Square images in three splits, each with a class. Without classes, `classes` is empty and labels are -1.

    Sources are frozen dataclasses that are cheap to make, and are pickled to the processes that pack in parallel. Slow
    work, such as listing a folder, is done at first use.
    """

    @property
    def name(self) -> str:
        """A short name, which becomes part of file names."""

    @property
    def resolution(self) -> int:
        """Height and width of the images in pixels."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; the label of an image is an index into them."""

    @property
    def origin(self) -> str:
        """Where the images come from, for messages."""

    def key(self) -> dict[str, Any]:
        """Everything the images depend on. A packed copy is reused only while this stays the same."""

    def files(self) -> dict[str, list[ImageFile]]:
        """The files of each split, in its order; empty for a source without files that a user could change."""

    def sizes(self) -> dict[str, int]:
        """Number of images in each split, unreadable ones included."""

    def read(self, split: str, start: int, stop: int) -> Chunk:
        """Images `start` to `stop` of a split in its fixed order; an unreadable image is white and named."""
