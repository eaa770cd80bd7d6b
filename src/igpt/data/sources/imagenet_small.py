"""ImageNet at 32x32 and 64x64 (Chrabaszcz, Loshchilov and Hutter 2017) from the official .npz files."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import IO, ClassVar

import numpy as np
from numpy.typing import NDArray

from igpt.data.sources.archive_files import damage_named, open_member, read_rows
from igpt.data.sources.downloads import data_root
from igpt.data.sources.official import OfficialSource
from igpt.data.sources.splits import Indices
from igpt.errors import IgptError

ADDRESS = "https://image-net.org/download-images"


@functools.lru_cache(maxsize=1)  # stays open, since reopening unpacks everything before the next row again
def _open_images(path: Path) -> tuple[IO[bytes], int, int]:
    """The array `data` in an .npz file: an open file, the offset of its first row, and bytes per row."""
    file = open_member(path, "data.npy")
    np.lib.format.read_magic(file)
    (_, width), fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
    if fortran_order or dtype != np.uint8:
        raise ValueError(f"the array data holds {dtype} and not rows of uint8")
    return file, file.tell(), width


@dataclass(frozen=True, kw_only=True)
class _SmallImageNet(OfficialSource):
    """1,281,167 training images, of which 4% are held out for validation; the official validation images are the test
    split.

    Needs train_data_batch_1.npz to train_data_batch_10.npz and val_data.npz, in `root` or anywhere below `root`/`name`.
    Classes are numbered from 1, as the authors do. Only the requested rows are held in memory, never a whole file.
    """

    classes: ClassVar[tuple[str, ...]] = tuple(str(number) for number in range(1, 1001))
    parts: ClassVar[dict[str, tuple[str, ...]]] = {
        "train": tuple(f"train_data_batch_{i}.npz" for i in range(1, 11)),
        "test": ("val_data.npz",),
    }
    downloads: ClassVar[str]  # names of the archives that contain the parts

    validation_share: float = 0.04

    def _labels(self, part: str) -> Indices:
        path = self._find(part)
        with damage_named(path), np.load(path) as arrays:
            return np.asarray(arrays["labels"], np.int64) - 1

    def _images(self, part: str, rows: Indices) -> NDArray[np.uint8]:
        path = self._find(part)
        with damage_named(path):
            file, offset, width = _open_images(path)
            return read_rows(file, rows, width, offset).reshape(-1, 3, self.side, self.side).transpose(0, 2, 3, 1)

    def _find(self, part: str) -> Path:
        root = data_root(self.root)
        candidates = [*sorted((root / self.name).glob(f"**/{part}")), root / part]
        path = next((path for path in candidates if path.exists()), None)
        if path is None:
            raise IgptError(
                f"There is no {part} in {root / self.name}; after registering at {ADDRESS} download {self.downloads} "
                f"and unpack them there ({', '.join(name for names in self.parts.values() for name in names)})."
            )
        return path


@dataclass(frozen=True, kw_only=True)
class ImageNet32Source(_SmallImageNet):
    """ImageNet at 32x32; see :class:`_SmallImageNet` for the files it needs."""

    name: ClassVar[str] = "imagenet32"
    side: ClassVar[int] = 32
    downloads: ClassVar[str] = "Imagenet32_train_npz.zip and Imagenet32_val_npz.zip"


@dataclass(frozen=True, kw_only=True)
class ImageNet64Source(_SmallImageNet):
    """ImageNet at 64x64; see :class:`_SmallImageNet` for the files it needs."""

    name: ClassVar[str] = "imagenet64"
    side: ClassVar[int] = 64
    downloads: ClassVar[str] = (
        "Imagenet64_train_part1_npz.zip, Imagenet64_train_part2_npz.zip and Imagenet64_val_npz.zip"
    )

    resolution: int = 64
