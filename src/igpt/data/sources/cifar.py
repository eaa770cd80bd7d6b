"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) from the official archives for Python."""

from __future__ import annotations

import functools
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from igpt.data.sources.archive_files import damage_named, open_member
from igpt.data.sources.downloads import Archive
from igpt.data.sources.official import OfficialSource
from igpt.data.sources.splits import Indices

_FINE_CLASSES = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
    castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
    elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
    man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
    pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
    skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
    tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""

_RECONSTRUCT = np.empty(0).__reduce__()[0]  # taken from an array, since numpy 2 has renamed its module

_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class _ArraysOnly(pickle.Unpickler):
    """Reads plain values and numpy arrays only, since anything else in a pickle could run code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}, which a data file does not need")
        return _ALLOWED[module, name]


def load_arrays(file: IO[bytes]) -> Any:
    """The content of a pickle of Python 2, which may hold plain values and numpy arrays; strings are bytes."""
    return _ArraysOnly(file, encoding="bytes").load()


@functools.lru_cache(maxsize=1)  # neighboring images are in the same part
def _load_part(path: Path, part: str, label_key: bytes) -> tuple[NDArray[np.uint8], Indices]:
    """Images (n, 3072) of one part, ordered by channel, row and column, and their labels (n,)."""
    with damage_named(path), open_member(path, part) as file:
        content = load_arrays(file)
        if not isinstance(content, dict):
            raise ValueError(f"{part} is not a dictionary")
        images = np.asarray(content[b"data"], np.uint8).reshape(-1, 3 * 32 * 32)
        return images, np.array(content[label_key], np.int64)


@dataclass(frozen=True, kw_only=True)
class _CIFARSource(OfficialSource):
    archive: ClassVar[Archive]
    label_key: ClassVar[bytes]
    side: ClassVar[int] = 32

    def _labels(self, part: str) -> Indices:
        return self._part(part)[1]

    def _images(self, part: str, rows: Indices) -> NDArray[np.uint8]:
        return self._part(part)[0][rows].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)  # (n, 32, 32, 3)

    def _part(self, part: str) -> tuple[NDArray[np.uint8], Indices]:
        return _load_part(self.archive.locate(self.root), part, self.label_key)


@dataclass(frozen=True, kw_only=True)
class CIFAR10Source(_CIFARSource):
    """60,000 images of 32x32 in ten classes; a tenth of the 50,000 training images is held out for validation."""

    name: ClassVar[str] = "cifar10"
    classes: ClassVar[tuple[str, ...]] = (
        "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
    )  # fmt: skip
    parts: ClassVar[dict[str, tuple[str, ...]]] = {
        "train": tuple(f"data_batch_{i}" for i in range(1, 6)),
        "test": ("test_batch",),
    }
    label_key: ClassVar[bytes] = b"labels"
    archive: ClassVar[Archive] = Archive(
        "cifar-10-python.tar.gz",
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        "md5:c58f30108f718f92721af3b95e74349a",
        "cifar-10-batches-py",
    )


@dataclass(frozen=True, kw_only=True)
class CIFAR100Source(_CIFARSource):
    """60,000 images of 32x32 in 100 (fine) classes; a tenth of the 50,000 training images is held out."""

    name: ClassVar[str] = "cifar100"
    classes: ClassVar[tuple[str, ...]] = tuple(_FINE_CLASSES.split())
    parts: ClassVar[dict[str, tuple[str, ...]]] = {"train": ("train",), "test": ("test",)}
    label_key: ClassVar[bytes] = b"fine_labels"
    archive: ClassVar[Archive] = Archive(
        "cifar-100-python.tar.gz",
        "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        "md5:eb9058c3a382ffc7106e4002c42a8d85",
        "cifar-100-python",
    )
