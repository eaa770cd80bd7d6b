"""Any folder of images, ImageNet's own among them."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from igpt.data.content import content_hashes
from igpt.data.image_files import SUFFIXES, read_or_blank
from igpt.data.sources.groups import group_key, group_names, numbered
from igpt.data.sources.layout import find_splits, refuse_splits_inside
from igpt.data.sources.source import SPLITS, Chunk, ImageFile
from igpt.data.sources.splits import Numbers, SplitSource, end_to_end
from igpt.data.sources.walk import FolderWalk
from igpt.errors import IgptError
from igpt.files import expand_user, printable

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageFolderSource(SplitSource):
    """The images below `path`, square and at `resolution`; see :func:`igpt.data.image_files.decode` for how.

    If `path` has a folder `train`, it and its neighbors `validation` (or `val`, `valid`, `dev`) and `test`, in upper
    or lower case, are the splits, and shares of `train` stand in for those that are missing; else, or with
    `split_folders=False`, all images are one pool to draw from. Folders inside a split, or inside the pool, are
    classes; without such folders, or with `labels=False`, there are no classes. `val_is_test` takes `val` for the test
    images, as is the custom with ImageNet.

    `group` says which images are not divided between splits: a regular expression with parentheses around what names
    the group in a path below `path`, or a CSV file with the columns path and group. What is in the files is remembered
    in `cache_dir`.
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
        """Among others a hash of all paths and of what is in the files."""
        settings = {"labels": self.labels, "val_is_test": self.val_is_test, "split_folders": self.split_folders}
        group = self.group and group_key(self.group)
        return {"source": "folder", **self._key(), **settings, "group": group, "files": self._fingerprint}

    def files(self) -> dict[str, list[ImageFile]]:
        classes = [_class_of(file) if self.labels else "" for files in self._listing.values() for file in files]
        rows = [ImageFile(*row) for row in zip(self._files, classes, self._contents, strict=True)]
        return {split: [rows[number] for number in self._splits[split]] for split in SPLITS}

    def _given(self) -> dict[str, Numbers]:
        given = end_to_end({split: len(files) for split, files in self._listing.items()})
        self._refuse_divided_groups(given)
        return given

    def _take(self, numbers: Numbers) -> Chunk:
        files = [str(self._root / self._files[number]) for number in numbers]
        images, unreadable = read_or_blank(((file, Path(file)) for file in files), self.resolution)
        groups = self._groups()
        return Chunk(images, self._label_of_each[numbers], unreadable, None if groups is None else groups[numbers])

    @property
    def _root(self) -> Path:
        return expand_user(self.path)

    # What there is

    @functools.cached_property
    def _folders(self) -> dict[str, str]:
        """The folder of each split that has one; "." is all."""
        if not self._root.is_dir():
            raise IgptError(
                f"There is no folder {self._root} to take images from; put it or a link to it there, or set "
                "data.source.path."
            )
        return find_splits(self._root, self.val_is_test) if self.split_folders else {"train": "."}

    @functools.cached_property
    def _listing(self) -> dict[str, list[str]]:
        """Files of each split, relative to its folder and sorted."""
        walk = FolderWalk(self._root)
        found = walk.images(list(self._folders.values()))
        if walk.passed_over:
            log.warning(
                "%d links in %s lead to folders that are read already, or that it lies in, and are passed over "
                "(the first is %s).", len(walk.passed_over), self._root, walk.passed_over[0],
            )  # fmt: skip
        listing = {split: found[folder] for split, folder in self._folders.items()}
        for split, files in listing.items():
            if not files:
                suffixes = ", ".join(sorted(SUFFIXES))
                raise IgptError(f"{self._root / self._folders[split]} has no images of its own ({suffixes}).")
        if self.split_folders and self._folders == {"train": "."}:
            refuse_splits_inside(self._root, listing["train"])
        return listing

    @functools.cached_property
    def _files(self) -> list[str]:
        """All files, split after split, relative to `path`."""
        return [
            file if self._folders[split] == "." else os.path.join(self._folders[split], file)  # noqa: PTH118
            for split, files in self._listing.items()
            for file in files
        ]

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

    # What is in it

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

    # What belongs together

    @functools.cached_property
    def _group_of_each(self) -> Numbers | None:
        return None if self.group is None else numbered(group_names(self.group, self._files))

    def _groups(self) -> Numbers | None:
        return self._group_of_each

    def _refuse_divided_groups(self, given: dict[str, Numbers]) -> None:
        """A group whose images lie in the folders of two splits cannot stay together."""
        groups = self._groups()
        if groups is None:
            return
        owner: dict[int, tuple[str, int]] = {}
        for split, number in ((split, number) for split, numbers in given.items() for number in numbers):
            other, first = owner.setdefault(int(groups[number]), (split, number))
            if other != split:
                raise IgptError(
                    f"{self._files[first]} and {self._files[number]} are of one group (data.source.group), but lie in "
                    "the folders of two splits; move one of them."
                )


def _class_of(file: str) -> str:
    """The first folder of a path, as it can be printed, or nothing."""
    return printable(file.split(os.sep, 1)[0]) if os.sep in file else ""
