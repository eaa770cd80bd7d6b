"""Any folder of images, also ImageNet in its original layout."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from igpt.data.content_hashes import content_hashes
from igpt.data.image_files import SUFFIXES, Shape, read_or_blank
from igpt.data.sources.folder_walk import FolderWalk
from igpt.data.sources.groups import group_indices, group_key
from igpt.data.sources.photos import PhotoSource
from igpt.data.sources.source import SPLITS, Chunk, ImageFile
from igpt.data.sources.split_folders import find_splits, refuse_nested_splits
from igpt.data.sources.splits import Indices, consecutive_indices
from igpt.errors import IgptError
from igpt.files import expand_user, printable

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageFolderSource(PhotoSource):
    """The images below `path`.

    If `path` has a folder `train`, then `train`, `validation` (or `val`, `valid`, `dev`) and `test`, in upper or lower
    case, are the splits, and a missing one is a share of `train`. Otherwise, or with `split_folders=False`, all images
    are one pool that is split at random. Folders inside a split, or inside the pool, are classes; without such folders,
    or with `labels=False`, there are no classes. `val_is_test` uses `val` as the test split, as is usual for ImageNet.

    `group` says which images must stay in one split: a regular expression with parentheses around the name of the
    group, which is searched in each path below `path`, or a CSV file with the columns path and group. Hashes of the
    files are remembered in `cache_dir`.
    """

    path: str
    name: str = "folder"
    labels: bool = True
    val_is_test: bool = False
    split_folders: bool = True
    group: str | None = None
    cache_dir: str | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the folders inside the training split, sorted."""
        if not self.labels:
            return ()
        return tuple(sorted({_class_of(file) for file in self._listing["train"]} - {""}))

    @property
    def origin(self) -> str:
        return str(self._root)

    def key(self) -> dict[str, Any]:
        """The settings, and a hash of all paths and contents of the files."""
        settings = {"labels": self.labels, "val_is_test": self.val_is_test, "split_folders": self.split_folders}
        group = self.group and group_key(self.group)
        return {"source": "folder", **self._split_settings(), **settings, "group": group, "files": self._fingerprint}

    def files(self) -> dict[str, list[ImageFile]]:
        classes = [_class_of(file) if self.labels else "" for files in self._listing.values() for file in files]
        rows = [ImageFile(*row) for row in zip(self._files, classes, self._contents, strict=True)]
        return {split: [rows[index] for index in self._splits[split]] for split in SPLITS}

    def _provided_splits(self) -> dict[str, Indices]:
        splits = consecutive_indices({split: len(files) for split, files in self._listing.items()})
        self._refuse_divided_groups(splits)
        return splits

    def _read_photos(self, indices: Indices, shape: Shape) -> Chunk:
        files = [str(self._root / self._files[index]) for index in indices]
        images, unreadable = read_or_blank(((file, Path(file)) for file in files), self.resolution, shape)
        groups = self._groups()
        return Chunk(images, self._labels[indices], unreadable, None if groups is None else groups[indices])

    @property
    def _root(self) -> Path:
        return expand_user(self.path)

    # Listing

    @functools.cached_property
    def _folders(self) -> dict[str, str]:
        """The folder of each split that has one; "." means that all images are one pool."""
        if not self._root.is_dir():
            raise IgptError(
                f"There is no folder of images at {self._root}; put it or a link to it there, or set data.source.path."
            )
        return find_splits(self._root, self.val_is_test) if self.split_folders else {"train": "."}

    @functools.cached_property
    def _listing(self) -> dict[str, list[str]]:
        """Files of each split, relative to its folder and sorted."""
        walk = FolderWalk(self._root)
        found = walk.images(list(self._folders.values()))
        if walk.skipped:
            log.warning(
                "%d links in %s are skipped: they lead to folders that are listed already or contain it (the first is "
                "%s).", len(walk.skipped), self._root, walk.skipped[0],
            )  # fmt: skip
        listing = {split: found[folder] for split, folder in self._folders.items()}
        for split, files in listing.items():
            if not files:
                suffixes = ", ".join(sorted(SUFFIXES))
                raise IgptError(
                    f"{self._root / self._folders[split]} has no images of its own ({suffixes}); add some, or set "
                    "data.source.path."
                )
        if self.split_folders and self._folders == {"train": "."}:
            refuse_nested_splits(self._root, listing["train"])
        return listing

    @functools.cached_property
    def _files(self) -> list[str]:
        """All files, split by split, relative to `path`."""
        return [
            file if self._folders[split] == "." else os.path.join(self._folders[split], file)  # noqa: PTH118
            for split, files in self._listing.items()
            for file in files
        ]

    @functools.cached_property
    def _labels(self) -> Indices:
        classes = {name: label for label, name in enumerate(self.classes)}
        if not classes:
            return np.full(len(self._files), -1, np.int64)
        names = [_class_of(file) for files in self._listing.values() for file in files]
        outside = next((i for i, name in enumerate(names) if name not in classes), None)
        if outside is not None:
            raise IgptError(
                f"{self._root / self._files[outside]} is in none of the folders of the {len(classes)} classes of the "
                "training images; move it, or set data.source.labels=false."
            )
        return np.array([classes[name] for name in names], np.int64)

    # Contents

    @functools.cached_property
    def _contents(self) -> list[str]:
        """A hash of each file."""
        cache_dir = None if self.cache_dir is None else expand_user(self.cache_dir)
        return content_hashes(self._root, self._files, cache_dir)

    @functools.cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        for file, content in zip(self._files, self._contents, strict=True):
            digest.update(f"{file}\0{content}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()

    # Groups

    @functools.cached_property
    def _cached_groups(self) -> Indices | None:
        return None if self.group is None else group_indices(self.group, self._files)

    def _groups(self) -> Indices | None:
        return self._cached_groups

    def _refuse_divided_groups(self, splits: dict[str, Indices]) -> None:
        """Raise an error if images of one group are in the folders of two splits."""
        groups = self._groups()
        if groups is None:
            return
        first_of_group: dict[int, tuple[str, int]] = {}
        for split, index in ((split, index) for split, indices in splits.items() for index in indices):
            first_split, first = first_of_group.setdefault(int(groups[index]), (split, index))
            if first_split != split:
                raise IgptError(
                    f"{self._files[first]} and {self._files[index]} are of one group (data.source.group), but in the "
                    "folders of two splits; move one of them."
                )


def _class_of(file: str) -> str:
    """The first folder of a path, in printable form, or ""."""
    return printable(file.split(os.sep, 1)[0]) if os.sep in file else ""
