"""MNIST (LeCun, Cortes and Burges 1998) and Fashion-MNIST (Xiao, Rasul and Vollgraf 2017) from the official files."""

from __future__ import annotations

import functools
import gzip
import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from igpt.data.sources.archive_files import damage_named
from igpt.data.sources.downloads import data_root, find_or_download
from igpt.data.sources.official import OfficialSource
from igpt.data.sources.splits import Indices

SIDE = 28
UBYTE = 0x08  # the code of unsigned bytes in the magic number of an IDX file


def read_idx(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """The bytes in an IDX file, compressed (.gz) or not, as (n, *shape).

    The file has a big-endian header of 32-bit integers: the magic number, which holds the type and the number of
    dimensions, and the size of each dimension. A file that differs from its header is an :class:`IgptError`.
    """
    with damage_named(path):
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        n_dims = 1 + len(shape)
        magic, expected = int.from_bytes(content[:4], "big"), UBYTE << 8 | n_dims
        if magic != expected:
            raise ValueError(f"its magic number is {magic} instead of {expected}")
        start = 4 * (1 + n_dims)
        if len(content) < start:
            raise ValueError("it ends within its header")
        n, *sizes = np.frombuffer(content[4:start], ">u4").tolist()
        if tuple(sizes) != shape:
            raise ValueError(f"it holds items of shape {tuple(sizes)} instead of {shape}")
        length = start + n * math.prod(shape)
        if len(content) != length:
            raise ValueError(f"it has {len(content)} bytes instead of the {length} that its header states")
        return np.frombuffer(content, np.uint8, offset=start).reshape(n, *shape)


# The training images are 47 MB. They are kept, since a compressed file cannot be read from the middle.
_cached_images = functools.lru_cache(maxsize=1)(read_idx)


@dataclass(frozen=True, kw_only=True)
class _MNISTSource(OfficialSource):
    """60,000 training and 10,000 test images of 28x28 gray pixels; a tenth of the training images is held out.

    The four files, compressed or not, are used where they are found together: in `root`/`name`, in one of the `folders`
    below `root`, or in a folder of the `system`. Otherwise the missing ones are downloaded to `root`/`name`.
    """

    side: ClassVar[int] = SIDE
    parts: ClassVar[dict[str, tuple[str, ...]]] = {"train": ("train",), "test": ("t10k",)}
    counts: ClassVar[dict[str, int]] = {"train": 60_000, "t10k": 10_000}  # images of each part
    folders: ClassVar[tuple[str, ...]]
    system: ClassVar[tuple[str, ...]] = ()
    address: ClassVar[str]
    checksums: ClassVar[dict[str, str]]  # MD5 of each compressed file that is downloaded

    resolution: int = SIDE

    @property
    def origin(self) -> str:
        return str(self._folder)

    def key(self) -> dict[str, Any]:
        return {**super().key(), "contents": self._contents}

    @functools.cached_property
    def _contents(self) -> dict[str, str]:
        """A hash of each part. Other data sets have files of the same names and sizes, so names do not identify one."""
        return {
            part: hashlib.sha256(self._part_images(part).tobytes() + labels.tobytes()).hexdigest()
            for part, labels in self._labels_by_part.items()
        }

    def _labels(self, part: str) -> Indices:
        path = self._find(f"{part}-labels-idx1-ubyte")
        labels = read_idx(path, ())
        with damage_named(path):
            if labels.max(initial=0) >= len(self.classes):
                raise ValueError(f"it has the label {labels.max()}, but the classes are 0 to {len(self.classes) - 1}")
            n_images = len(self._part_images(part))
            if len(labels) != n_images:
                raise ValueError(f"it has {len(labels)} labels for {n_images} images")
        return labels.astype(np.int64)

    def _images(self, part: str, rows: Indices) -> NDArray[np.uint8]:
        gray = self._part_images(part)[rows]  # (n, 28, 28)
        return np.repeat(gray[..., None], 3, axis=-1)

    def _part_images(self, part: str) -> NDArray[np.uint8]:
        path = self._find(f"{part}-images-idx3-ubyte")
        images = _cached_images(path, (SIDE, SIDE))
        with damage_named(path):
            if len(images) != self.counts[part]:
                raise ValueError(f"it has {len(images)} images instead of the official {self.counts[part]}")
        return images

    def _find(self, name: str) -> Path:
        """The file `name`, or the compressed file, which is downloaded if both are missing."""
        if (self._folder / name).exists():
            return self._folder / name
        compressed = f"{name}.gz"
        url = f"{self.address}/{compressed}"
        return find_or_download(compressed, url, f"md5:{self.checksums[compressed]}", self._folder)

    @property
    def _folder(self) -> Path:
        root = data_root(self.root)
        own = root / self.name
        folders = [own, *(root / folder for folder in self.folders), *map(Path, self.system)]
        return next((folder for folder in folders if self._is_complete(folder)), own)

    def _is_complete(self, folder: Path) -> bool:
        return all((folder / name).exists() or (folder / name).with_suffix("").exists() for name in self.checksums)


@dataclass(frozen=True, kw_only=True)
class MNISTSource(_MNISTSource):
    """Handwritten digits; see :class:`_MNISTSource` for the files."""

    name: ClassVar[str] = "mnist"
    classes: ClassVar[tuple[str, ...]] = tuple("0123456789")
    folders: ClassVar[tuple[str, ...]] = ("MNIST/raw",)  # torchvision's
    address: ClassVar[str] = "https://ossci-datasets.s3.amazonaws.com/mnist"
    checksums: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
    }


@dataclass(frozen=True, kw_only=True)
class FashionMNISTSource(_MNISTSource):
    """Articles of clothing; see :class:`_MNISTSource` for the files. Debian has them as dataset-fashion-mnist."""

    name: ClassVar[str] = "fashion_mnist"
    classes: ClassVar[tuple[str, ...]] = (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    )  # fmt: skip
    folders: ClassVar[tuple[str, ...]] = ("FashionMNIST/raw",)  # torchvision's
    system: ClassVar[tuple[str, ...]] = ("/usr/share/datasets/fashion-mnist",)  # Debian's
    address: ClassVar[str] = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
    checksums: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
    }
