"""Photos of any shape: their center squares, or the whole photos."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from igpt.data.image_files import Shape, square, whole
from igpt.data.sources.source import Chunk, ImageFile, ImageSource
from igpt.data.sources.splits import Indices, SplitSource


@dataclass(frozen=True, kw_only=True)
class PhotoSource(SplitSource, ImageSource):
    """A source of image files of any shape; `read` returns their center squares."""

    @abstractmethod
    def _read_photos(self, indices: Indices, shape: Shape) -> Chunk:
        """The images with these ascending indices, as a list of the arrays that `shape` makes of them."""

    def _read_images(self, indices: Indices) -> Chunk:
        chunk = self._read_photos(indices, square)
        return dataclasses.replace(chunk, images=np.stack(list(chunk.images)))

    def read_whole(self, split: str, start: int, stop: int) -> Chunk:
        """The same images as `read` has, but whole (H, W, 3), with the shorter side at the resolution."""
        return self._read_photos(self._splits[split][start:stop], whole)


@dataclass(frozen=True)
class WholePhotos:
    """The photos of a source in their own shapes; `resolution` is the shorter side of each."""

    squares: PhotoSource

    @property
    def name(self) -> str:
        return self.squares.name

    @property
    def resolution(self) -> int:
        return self.squares.resolution

    @property
    def full_train(self) -> bool:
        return self.squares.full_train

    @property
    def classes(self) -> tuple[str, ...]:
        return self.squares.classes

    @property
    def origin(self) -> str:
        return self.squares.origin

    def key(self) -> dict[str, Any]:
        return {**self.squares.key(), "shape": "whole"}

    def files(self) -> dict[str, list[ImageFile]]:
        return self.squares.files()

    def sizes(self) -> dict[str, int]:
        return self.squares.sizes()

    def read(self, split: str, start: int, stop: int) -> Chunk:
        return self.squares.read_whole(split, start, stop)
