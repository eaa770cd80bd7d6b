"""Data sets of the Hugging Face Hub, and local files that the library `datasets` reads (Parquet, image folders)."""

from __future__ import annotations

import functools
import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from igpt.data.disk_memo import memo_lock, read_memos, write_memo
from igpt.data.image_files import Shape, read_or_blank
from igpt.data.sources.photos import PhotoSource
from igpt.data.sources.source import SPLITS, Chunk
from igpt.data.sources.splits import VALIDATION_NAMES, Indices, consecutive_indices, rows_by_part
from igpt.errors import IgptError, in_one_line
from igpt.files import expand_user
from igpt.libraries import optional_library
from igpt.progress import track


def _datasets() -> Any:
    """The library, which is optional and takes a second to import."""
    return optional_library("datasets", "A data set of the Hugging Face Hub", "'igpt[hub]'")


@dataclass(frozen=True)
class HubSource(PhotoSource):
    """The images of `datasets.load_dataset(path, subset, data_files=..., revision=...)`.

    `path` is a data set of the Hub, a local folder, or the format ("parquet", "imagefolder") of `data_files`. `splits`
    maps our splits to the data set's, for example {"train": "train", "test": "validation"}; by default, splits of the
    same name are used. A missing split is a share of `train`. The columns are found by their type (Image, ClassLabel)
    unless they are named; a named `label_column` may also hold numbers or strings. Hashes of local files are remembered
    in `cache_dir`.
    """

    path: str
    subset: str | None = None
    data_files: Any = None
    revision: str | None = None
    splits: dict[str, str] | None = None
    image_column: str | None = None
    label_column: str | None = None
    labels: bool = True
    name: str = "hub"
    cache_dir: str | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(str(value) for value in self._class_values)

    @property
    def origin(self) -> str:
        return self.path

    def key(self) -> dict[str, Any]:
        columns = {"label_column": self._label_column}
        return {"source": "hub", **self._split_settings(), **columns, "contents": self._contents}

    @functools.cached_property
    def _contents(self) -> dict[str, str]:
        """A hash of each split.

        For a data set of the Hub, the library's own hash depends on its revision. For local files it would depend on
        their times, so their content is hashed instead.
        """
        if self.data_files is None and not expand_user(self.path).exists():
            return {split: data._fingerprint for split, data in self._data.items()}
        return {split: self._remembered_hash(data) for split, data in self._data.items()}

    def _remembered_hash(self, data: Any) -> str:
        if not self.cache_dir:
            return self._hash(data)
        cache_dir, name = expand_user(self.cache_dir), f"contents/hub-{data._fingerprint}.txt"
        with memo_lock(cache_dir, name):
            for memo in read_memos(cache_dir, name):
                return memo.decode()
            digest = self._hash(data)
            write_memo(cache_dir, name, digest.encode())
            return digest

    def _hash(self, data: Any) -> str:
        digest = hashlib.sha256()
        for sample in track(data, f"Reading {self.name}"):
            image = sample[self._image_column] or {}
            path = image.get("path")
            content = image.get("bytes") or b""
            if not content and path and Path(path).is_file():
                content = Path(path).read_bytes()
            digest.update(hashlib.sha256(content).digest())
            digest.update(repr(sample.get(self._label_column)).encode())
        return digest.hexdigest()

    def _provided_splits(self) -> dict[str, Indices]:
        return consecutive_indices({split: len(data) for split, data in self._data.items()})

    def _read_photos(self, indices: Indices, shape: Shape) -> Chunk:
        labels: list[Any] = []
        images, unreadable = read_or_blank(self._image_files(indices, labels), self.resolution, shape)
        return Chunk(images, np.array(labels, np.int64), unreadable)

    def _image_files(self, indices: Indices, labels: list[Any]) -> Iterator[tuple[str, Any]]:
        """Name and file of each image; its label is appended to `labels`."""
        names = list(self._data)
        for part, rows in rows_by_part(indices, [len(data) for data in self._data.values()]):
            data = self._data[names[part]]
            for row in rows:
                sample = data[int(row)]
                labels.append(self._label(sample.get(self._label_column)))
                image = sample[self._image_column] or {}
                file = io.BytesIO(image["bytes"]) if image.get("bytes") else image.get("path")
                yield f"{self.path}, {names[part]} image {row}", Path(file) if isinstance(file, str) else file

    def _label(self, value: Any) -> int:
        if self._label_column is None or _is_no_label(value):
            return -1
        if self._labels_are_indices:
            return int(value)
        if value not in self._class_values:
            raise IgptError(
                f"{self.path} has an image with the label '{value}', but no training image has it; choose another "
                "data.source.label_column, or set data.source.labels=false."
            )
        return self._class_values.index(value)

    # Loading

    @functools.cached_property
    def _data(self) -> dict[str, Any]:
        """Our splits as `datasets.Dataset`s with undecoded images and, if there are any, labels."""
        loaded = self._load()
        chosen = {split: loaded[theirs] for split, theirs in self._split_names(list(loaded)).items()}
        image = self._find_column(chosen["train"], "image")
        label = self._find_column(chosen["train"], "label")
        result = {}
        for split, data in chosen.items():
            if image not in data.features:
                raise IgptError(f"The {split} images of {self.path} lack the column {image}; set data.source.splits.")
            columns = [column for column in (image, label) if column in data.features]  # a test split may lack labels
            undecoded = _datasets().Image(decode=False)
            result[split] = data.select_columns(columns).cast_column(image, undecoded)
        return result

    def _load(self) -> Any:
        datasets = _datasets()
        try:
            return datasets.load_dataset(self.path, self.subset, data_files=self.data_files, revision=self.revision)
        except Exception as error:  # the library raises many types of errors, also those of other libraries
            reason = in_one_line(error)
            raise IgptError(f"The data set {self.path} cannot be loaded ({reason}); check data.source.") from None

    def _split_names(self, available: list[str]) -> dict[str, str]:
        """Our split -> the data set's."""
        names = self.splits
        if names is None:
            validation = next((name for name in VALIDATION_NAMES if name in available), "")
            names = {"train": "train", "validation": validation, "test": "test"}
            names = {ours: theirs for ours, theirs in names.items() if theirs in available}
        if "train" not in names or not set(names) <= set(SPLITS) or not set(names.values()) <= set(available):
            raise IgptError(
                f"{self.path} has the splits {', '.join(available)}; set data.source.splits to say which are train, "
                "validation and test (train at least)."
            )
        return {split: names[split] for split in SPLITS if split in names}

    def _find_column(self, data: Any, what: str) -> str | None:
        """The column of images or labels: the named one, or the only one of its type."""
        if what == "label" and not self.labels:
            return None
        named = self.image_column if what == "image" else self.label_column
        kind = _datasets().Image if what == "image" else _datasets().ClassLabel
        found = [column for column, feature in data.features.items() if isinstance(feature, kind)]
        if named is not None:
            found = [column for column in data.features if column == named]
        if len(found) == 1 or (what == "label" and not found and named is None):
            return found[0] if found else None
        raise IgptError(
            f"{self.path} has {len(found)} columns that could be data.source.{what}_column; name one of "
            f"{', '.join(data.features)}."
        )

    @functools.cached_property
    def _image_column(self) -> str:
        return self._data["train"].column_names[0]

    @functools.cached_property
    def _label_column(self) -> str | None:
        return next(iter(self._data["train"].column_names[1:]), None)

    @property
    def _labels_are_indices(self) -> bool:
        """Whether labels are stored as indices into the classes."""
        return isinstance(self._data["train"].features[self._label_column], _datasets().ClassLabel)

    @functools.cached_property
    def _class_values(self) -> list[Any]:
        if self._label_column is None:
            return []
        train = self._data["train"]
        if self._labels_are_indices:
            return list(train.features[self._label_column].names)
        return sorted(value for value in train.unique(self._label_column) if not _is_no_label(value))


def _is_no_label(value: Any) -> bool:
    """None, and the -1 of test splits whose labels are not published."""
    return value is None or value == -1
