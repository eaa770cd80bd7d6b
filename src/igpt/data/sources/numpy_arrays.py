"""Images in NumPy arrays: an .npz file, .npy files, or arrays in memory."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from igpt.data.content_hashes import content_hashes
from igpt.data.image_files import square
from igpt.data.sources.archive_files import damage_named
from igpt.data.sources.source import SPLITS, Chunk
from igpt.data.sources.splits import Indices, SplitSource, consecutive_indices, rows_by_part, split_named
from igpt.errors import IgptError, some_of
from igpt.files import expand_user

KINDS = {"images": "images", "x": "images", "labels": "labels", "y": "labels"}
MAX_CLASSES = 2**16  # a larger label is an identifier and no class

Arrays = Mapping[str, NDArray[Any]]  # by name
Parts = dict[str, str]  # split -> name of its array


@dataclass(frozen=True)
class ArraysSource(SplitSource):
    """Gray or color images (N, H, W), (N, H, W, 1) or (N, H, W, 3) of uint8, made square and resized as files are.

    `path` is an .npz file, a folder of .npy files, or one .npy file of images. In Python, `arrays` may be given
    instead. The name of an array says what it is: `images` or `x`, `labels` or `y`, with a split before or after it, as
    in `train_images` or `y_test`. Without a split, it belongs to the training images. A missing split is a share of
    them. Arrays of other names are ignored.

    Labels (N,) or (N, 1) are numbers from 0, or -1 for an image without a label. The names of the `classes` are by
    default the numbers up to the largest training label. `labels=False` ignores the labels. Hashes of the files are
    remembered in `cache_dir`.
    """

    path: str | None = None
    arrays: Arrays | None = None
    class_names: tuple[str, ...] | None = None
    labels: bool = True
    name: str = "arrays"
    cache_dir: str | None = None

    def __post_init__(self) -> None:
        if (self.path is None) == (self.arrays is None):
            raise IgptError("Give an ArraysSource either the path of a file or arrays.")

    def __getstate__(self) -> dict[str, Any]:
        """Without opened files: each packing process opens them itself."""
        return {name: value for name, value in vars(self).items() if name != "_opened"}

    @property
    def origin(self) -> str:
        return "arrays in memory" if self.path is None else str(expand_user(self.path))

    @property
    def classes(self) -> tuple[str, ...]:
        if not self._label_arrays:
            return ()
        if self.class_names is not None:
            return tuple(self.class_names)
        return tuple(map(str, range(1 + self._labels["train"].max(initial=-1))))

    def key(self) -> dict[str, Any]:
        classes = {"classes": list(self.classes)}
        return {"source": "arrays", **self._split_settings(), **classes, "contents": self._contents}

    def _provided_splits(self) -> dict[str, Indices]:
        sizes = {split: len(self._images_of(split)) for split in self._image_arrays}
        for split in self._label_arrays:
            self._check_labels(split, sizes.get(split, 0))
        return consecutive_indices(sizes)

    def _read_images(self, indices: Indices) -> Chunk:
        splits = list(self._image_arrays)
        images = [np.empty((0, self.resolution, self.resolution, 3), np.uint8)]
        labels = [np.empty(0, np.int64)]
        for part, rows in rows_by_part(indices, [len(self._images_of(split)) for split in splits]):
            images.append(_prepared(self._images_of(splits[part])[rows], self.resolution))
            has_labels = splits[part] in self._labels
            labels.append(self._labels[splits[part]][rows] if has_labels else np.full(len(rows), -1, np.int64))
        return Chunk(np.concatenate(images), np.concatenate(labels))

    # Which array is what

    @functools.cached_property
    def _image_arrays(self) -> Parts:
        """The names of the arrays of images, `train` at least."""
        found = self._arrays_of("images")
        if not self._names:
            kind = "arrays" if self.path is None or not expand_user(self.path).is_dir() else ".npy files"
            raise IgptError(
                f"{self.origin} has no {kind}; name the arrays of images train_images or images, for example."
            )
        if "train" not in found:
            raise IgptError(
                f"{self.origin} has no training images among its arrays ({some_of(self._names)}); name them "
                "train_images and train_labels, test_images and so on, or images and labels."
            )
        return found

    @functools.cached_property
    def _label_arrays(self) -> Parts:
        found = self._arrays_of("labels") if self.labels else {}
        if found and "train" not in found:
            raise IgptError(
                f"{self.origin} has {some_of(list(found.values()))}, but no labels of the training images; add "
                "train_labels, or set data.source.labels=false."
            )
        return found

    def _arrays_of(self, kind: str) -> Parts:
        found: Parts = {}
        for name in self._names:
            part = _part_of(name)
            if part is None or part[1] != kind:
                continue
            if part[0] in found:
                raise IgptError(
                    f"{self.origin} has both {found[part[0]]} and {name} for {part[0]} {kind}; keep one of them."
                )
            found[part[0]] = name
        return {split: found[split] for split in SPLITS if split in found}

    # Contents

    @functools.cached_property
    def _names(self) -> list[str]:
        """The names of all arrays, those of no use too."""
        if self.arrays is not None:
            return sorted(self.arrays)
        path = expand_user(self.origin)
        if path.is_dir():
            return sorted(file.stem for file in path.glob("*.npy"))
        if not path.exists():
            raise IgptError(f"There are no arrays at {path}; set data.source.path.")
        content = _load(path)
        return ["images"] if isinstance(content, np.ndarray) else sorted(content.files)

    @functools.cached_property
    def _opened(self) -> Arrays:
        """The arrays of images and labels, by name."""
        return {name: self._open(name) for name in self._names if _part_of(name)}

    def _open(self, name: str) -> NDArray[Any]:
        if self.arrays is not None:
            return np.asarray(self.arrays[name])
        path = expand_user(self.origin)
        content = _load(path / f"{name}.npy" if path.is_dir() else path)
        if isinstance(content, np.ndarray):
            return content
        with damage_named(path), content:
            return np.asarray(content[name])

    @functools.cached_property
    def _contents(self) -> dict[str, str]:
        """A hash of each array in memory and in a folder, or of the one file."""
        names = [*self._image_arrays.values(), *self._label_arrays.values()]
        if self.path is None:
            return {name: _hash(self._opened[name]) for name in names}
        path = expand_user(self.origin)
        cache_dir = None if self.cache_dir is None else expand_user(self.cache_dir)
        if path.is_dir():
            return dict(zip(names, content_hashes(path, [f"{name}.npy" for name in names], cache_dir), strict=True))
        return {"the file": content_hashes(path.parent, [path.name], cache_dir)[0]}

    def _images_of(self, split: str) -> NDArray[np.uint8]:
        name = self._image_arrays[split]
        images = self._opened[name]
        what = f"The array {name} of {self.origin}"
        if images.dtype != np.uint8:
            raise IgptError(f"{what} has values of type {images.dtype}; images must be uint8, from 0 to 255.")
        if not (images.ndim == 3 or (images.ndim == 4 and images.shape[3] in (1, 3))):
            raise IgptError(
                f"{what} has the shape {images.shape}; images must have (N, H, W), (N, H, W, 1) or (N, H, W, 3)."
            )
        if images.ndim == 3 and images.shape[2] in (3, 4):
            raise IgptError(
                f"{what} has the shape {images.shape}, which looks like one color image; images in color must have "
                "(N, H, W, 3), one image (1, H, W, 3)."
            )
        if images.size == 0:
            raise IgptError(f"{what} is empty: its shape is {images.shape}.")
        return images

    @functools.cached_property
    def _labels(self) -> dict[str, Indices]:
        """The labels of each split that has some."""
        return {split: self._labels_of(split) for split in self._label_arrays}

    def _labels_of(self, split: str) -> Indices:
        name = self._label_arrays[split]
        labels = self._opened[name]
        what = f"The array {name} of {self.origin}"
        if not np.issubdtype(labels.dtype, np.integer):
            raise IgptError(f"{what} has values of type {labels.dtype}; labels must be whole numbers from 0.")
        if labels.ndim != 1 and (labels.ndim != 2 or labels.shape[1] != 1):
            raise IgptError(f"{what} has the shape {labels.shape}; labels must have (N,) or (N, 1).")
        smallest, largest = int(labels.min(initial=0)), int(labels.max(initial=0))
        if smallest < -1 or largest >= MAX_CLASSES:
            wrong = smallest if smallest < -1 else largest
            raise IgptError(
                f"{what} has the label {wrong}; classes must be numbered from 0 to at most {MAX_CLASSES - 1}, and -1 "
                "means no label."
            )
        return labels.reshape(-1).astype(np.int64)

    def _check_labels(self, split: str, n_images: int) -> None:
        name, labels, n_classes = self._label_arrays[split], self._labels[split], len(self.classes)
        if len(labels) != n_images:
            raise IgptError(
                f"The array {name} of {self.origin} has {len(labels)} labels for {n_images} {split} images."
            )
        if labels.max(initial=-1) >= n_classes:
            known = "data.source.class_names has" if self.class_names is not None else "the training images have"
            raise IgptError(
                f"The array {name} of {self.origin} has the label {labels.max()}, but {known} only {n_classes} "
                "classes, from 0."
            )


def _part_of(name: str) -> tuple[str, str] | None:
    """The split and the kind (images or labels) that the name of an array means, None if it means nothing."""
    words = name.lower().split("_")
    kinds = [KINDS[word] for word in words if word in KINDS]
    splits = [split for word in words if (split := split_named(word))]
    if len(kinds) != 1 or len(kinds) + len(splits) != len(words) or len(splits) > 1:
        return None
    return (splits[0] if splits else "train"), kinds[0]


def _load(path: Path) -> Any:
    """The array in an .npy file, which stays on disk, or the arrays in an .npz file; never a pickle."""
    with damage_named(path):
        with path.open("rb") as file:
            start = file.read(6)
        if not start.startswith((b"\x93NUMPY", b"PK")):  # NumPy would advise to load it unsafely, as a pickle
            raise ValueError("it is not an .npy or .npz file")
        return np.load(path, mmap_mode="r", allow_pickle=False)


def _hash(array: NDArray[Any]) -> str:
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape}\n".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _prepared(images: NDArray[np.uint8], resolution: int) -> NDArray[np.uint8]:
    """Images of any accepted shape as (n, R, R, 3)."""
    if images.ndim == 3:
        images = images[..., None]
    colors = np.broadcast_to(images, (*images.shape[:3], 3))  # (n, H, W, 3)
    if images.shape[1:3] == (resolution, resolution):
        return colors
    return np.stack([square(Image.fromarray(np.ascontiguousarray(image)), resolution) for image in colors])
