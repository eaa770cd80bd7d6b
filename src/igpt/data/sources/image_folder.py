"""Any folder of images, ImageNet's own among them."""

from __future__ import annotations

import functools
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from igpt.data.image_files import SUFFIXES, read_or_blank
from igpt.data.sources.base import Chunk
from igpt.data.sources.splits import VALIDATION_NAMES, Numbers, SplitSource, end_to_end
from igpt.errors import IgptError


@dataclass(frozen=True)
class ImageFolderSource(SplitSource):
    """The images below `path`, square and at `resolution`; see :func:`igpt.data.image_files.decode` for how.

    If `path` has a folder `train`, it and its neighbours `validation` (or `val`, `valid`, `dev`) and `test` are the
    splits, and shares of `train` stand in for those that are missing; else all images are one pool to draw from.
    Folders inside a split, or inside the pool, are classes; without such folders, or with `labels=False`, there are no
    classes. `val_is_test` takes `val` for the test images, as is the custom with ImageNet.
    """

    path: str
    name: str = "folder"
    labels: bool = True
    val_is_test: bool = False

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the folders inside the training split, sorted."""
        if not self.labels:
            return ()
        return tuple(sorted({_class_of(file) for file in self._listing["train"]} - {""}))

    def key(self) -> dict[str, Any]:
        """Among others a hash of all paths, sizes and times of change."""
        settings = {"labels": self.labels, "val_is_test": self.val_is_test, "files": self._fingerprint}
        return {"source": "folder", **self._key(), **settings}

    def _given(self) -> dict[str, Numbers]:
        return end_to_end({split: len(files) for split, files in self._listing.items()})

    def _take(self, numbers: Numbers) -> Chunk:
        files = [str(self._root / self._files[number]) for number in numbers]
        images, unreadable = read_or_blank(((file, Path(file)) for file in files), self.resolution)
        return Chunk(images, self._label_of_each[numbers], unreadable)

    @property
    def _root(self) -> Path:
        return Path(self.path).expanduser()

    @property
    def _folders(self) -> dict[str, str]:
        """The folder of each split that has one; "." is all."""
        if not (self._root / "train").is_dir():
            if self.val_is_test:
                raise IgptError(f"data.source.val_is_test needs folders train and val, and {self._root} has no train.")
            return {"train": "."}
        found = {"train": "train"}
        validation = next((name for name in VALIDATION_NAMES if (self._root / name).is_dir()), None)
        if self.val_is_test and validation is None:
            raise IgptError(f"data.source.val_is_test needs folders train and val, and {self._root} has no val.")
        if validation is not None:
            found["test" if self.val_is_test else "validation"] = validation
        if "test" not in found and (self._root / "test").is_dir():
            found["test"] = "test"
        return found

    @functools.cached_property
    def _listing(self) -> dict[str, list[str]]:
        """Files of each split, relative to its folder and sorted."""
        if not self._root.is_dir():
            raise IgptError(f"There is no folder {self._root} to take images from; set data.source.path.")
        listing = {split: list_images(self._root / folder) for split, folder in self._folders.items()}
        if not listing["train"]:
            raise IgptError(f"{self._root / self._folders['train']} has no images ({', '.join(sorted(SUFFIXES))}).")
        return listing

    @functools.cached_property
    def _files(self) -> list[str]:
        """All files, split after split, relative to `path`."""
        return [os.path.join(self._folders[split], file) for split, files in self._listing.items() for file in files]  # noqa: PTH118

    @functools.cached_property
    def _label_of_each(self) -> Numbers:
        classes = {name: label for label, name in enumerate(self.classes)}
        if not classes:
            return np.full(len(self._files), -1, np.int64)
        names = [_class_of(file) for files in self._listing.values() for file in files]
        strange = next((i for i, name in enumerate(names) if name not in classes), None)
        if strange is not None:
            raise IgptError(
                f"{self._root / self._files[strange]} is in no folder of the {len(classes)} classes that the training "
                "images have; move it, or set data.source.labels=false."
            )
        return np.array([classes[name] for name in names], np.int64)

    @functools.cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        for file in self._files:
            status = (self._root / file).stat()
            digest.update(f"{file}\0{status.st_size}\0{status.st_mtime_ns}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()


def list_images(folder: Path) -> list[str]:
    """Paths of all images below a folder, relative to it and sorted; names with a dot in front are passed over."""
    found = []
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        prefix = os.path.relpath(parent, folder)
        images = [name for name in files if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES]
        found += [name if prefix == "." else f"{prefix}{os.sep}{name}" for name in images]
    return sorted(found)


def _class_of(file: str) -> str:
    """The first folder of a path, or nothing."""
    return file.split(os.sep, 1)[0] if os.sep in file else ""
