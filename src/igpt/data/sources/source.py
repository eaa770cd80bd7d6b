"""What every source of images can do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Chunk:
    """Some neighboring images of a split."""

    images: NDArray[np.uint8]  # (n, R, R, 3)
    labels: NDArray[np.int64]  # (n,)
    unreadable: dict[int, str] = field(default_factory=dict)  # place in the chunk -> which file, and why
    groups: NDArray[np.int64] | None = None  # (n,), equal for images that belong together; -1 for one that stands alone


class ImageFile(NamedTuple):
    """A file of a source: its path in the source, its class ("" if it has none), a hash of what is in it."""

    path: str
    label: str
    content: str


class ImageSource(Protocol):
    """Square images in three splits, each with a class; without classes, `classes` is empty and labels are -1.

    Sources are frozen dataclasses: cheap to make, and pickled to the processes that pack in parallel. What is slow to
    find out (listing a folder, say) is found out when it is first asked for.
    """

    @property
    def name(self) -> str:
        """Short, fit for a file name."""

    @property
    def resolution(self) -> int:
        """Pixels a side."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; the label of an image is an index into them."""

    @property
    def origin(self) -> str:
        """Where the images come from, for people."""

    def key(self) -> dict[str, Any]:
        """Everything the images depend on; a packed copy is used again only while this stays the same."""

    def files(self) -> dict[str, list[ImageFile]]:
        """The files of each split, in its order; nothing where there are no files that a person could change."""

    def sizes(self) -> dict[str, int]:
        """Number of images in each split, unreadable ones included."""

    def read(self, split: str, start: int, stop: int) -> Chunk:
        """Images `start` to `stop` of a split, whose order is fixed; an unreadable image is blank and named."""
