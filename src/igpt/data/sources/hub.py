"""Data sets of the Hugging Face Hub, and local files that its `datasets` library reads (Parquet, image folders)."""

from __future__ import annotations

import functools
import hashlib
import importlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from igpt.data.image_files import read_or_blank
from igpt.data.notes import note_lock, read_notes, write_note
from igpt.data.sources.source import SPLITS, Chunk
from igpt.data.sources.splits import VALIDATION_NAMES, Numbers, SplitSource, by_part, end_to_end
from igpt.errors import IgptError
from igpt.files import expand_user
from igpt.progress import track


def _datasets() -> Any:
    """The library, an extra that takes a second to import."""
    try:
        return importlib.import_module("datasets")
    except ImportError:
        raise IgptError("Data of the Hugging Face Hub needs the library datasets: pip install 'igpt[hub]'.") from None


@dataclass(frozen=True)
class HubSource(SplitSource):
    """What `datasets.load_dataset(path, subset, data_files=..., revision=...)` gives, square and at `resolution`.

    `path` is a data set of the Hub, a local folder, or a format ("parquet", "imagefolder") to read `data_files` with.
    `splits` says which of its splits are ours, {"train": "train", "test": "validation"} for example; by default those
    of the same name. Shares of `train` stand in for those that are missing. The columns are found by their type (Image,
    ClassLabel) unless they are named; a named `label_column` may also hold numbers or strings. What is in local files
    is remembered in `cache_dir`.
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
        return {"source": "hub", **self._key(), "label_column": self._label_column, "contents": self._contents}

    @functools.cached_property
    def _contents(self) -> dict[str, str]:
        """What is in each split, as a hash. That of the library knows the revision of a data set of the Hub; of local
        files it would know the times, so their content is hashed, and remembered as long as the times stay.
        """
        if self.data_files is None and not expand_user(self.path).exists():
            return {split: data._fingerprint for split, data in self._data.items()}
        return {split: self._remembered_hash(data) for split, data in self._data.items()}

    def _remembered_hash(self, data: Any) -> str:
        if not self.cache_dir:
            return self._hash(data)
        cache_dir, name = expand_user(self.cache_dir), f"contents/hub-{data._fingerprint}.txt"
        with note_lock(cache_dir, name):
            for note in read_notes(cache_dir, name):
                return note.decode()
            content = self._hash(data)
            write_note(cache_dir, name, content.encode())
            return content

    def _hash(self, data: Any) -> str:
        digest = hashlib.sha256()
        for sample in track(data, f"Reading {self.name}"):
            image = sample[self._image_column] or {}
            path = image.get("path")
            content = image.get("bytes") or (Path(path).read_bytes() if path and Path(path).is_file() else b"")
            digest.update(hashlib.sha256(content).digest())
            digest.update(repr(sample.get(self._label_column)).encode())
        return digest.hexdigest()

    def _given(self) -> dict[str, Numbers]:
        return end_to_end({split: len(data) for split, data in self._data.items()})

    def _take(self, numbers: Numbers) -> Chunk:
        labels: list[Any] = []
        images, unreadable = read_or_blank(self._files(numbers, labels), self.resolution)
        return Chunk(images, np.array(labels, np.int64), unreadable)

    def _files(self, numbers: Numbers, labels: list[Any]) -> Iterator[tuple[str, Any]]:
        """Name and file of each image; its label is appended to `labels`."""
        names = list(self._data)
        for part, rows in by_part(numbers, [len(data) for data in self._data.values()]):
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
        if self._numbered:
            return int(value)
        if value not in self._class_values:
            raise IgptError(
                f"{self.path} has an image with the label '{value}', which no training image has; choose another "
                "data.source.label_column, or set data.source.labels=false."
            )
        return self._class_values.index(value)

    # What the library gives

    @functools.cached_property
    def _data(self) -> dict[str, Any]:
        """Our splits as `datasets.Dataset`s with undecoded images and, if there are any, labels."""
        loaded = self._load()
        chosen = {split: loaded[theirs] for split, theirs in self._split_names(list(loaded)).items()}
        image = self._find_column(chosen["train"], "image")
        label = self._find_column(chosen["train"], "label")
        columns = [column for column in (image, label) if column is not None]
        undecoded = _datasets().Image(decode=False)
        for split, data in chosen.items():
            if image not in data.features:
                raise IgptError(f"The {split} images of {self.path} lack the column {image}; set data.source.splits.")
        known = {split: [c for c in columns if c in data.features] for split, data in chosen.items()}  # labels or not
        return {s: data.select_columns(known[s]).cast_column(image, undecoded) for s, data in chosen.items()}

    def _load(self) -> Any:
        datasets = _datasets()
        try:
            return datasets.load_dataset(self.path, self.subset, data_files=self.data_files, revision=self.revision)
        except Exception as error:  # the library raises errors of many kinds, some of them of other libraries
            reason = " ".join(str(error).split()) or type(error).__name__
            raise IgptError(f"The data set {self.path} cannot be loaded ({reason}); check data.source.") from None

    def _split_names(self, available: list[str]) -> dict[str, str]:
        """Our split -> theirs."""
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
        """The column of images or labels: the one that was named, or the only one of its type."""
        named, kind = (
            (self.image_column, _datasets().Image) if what == "image" else (self.label_column, _datasets().ClassLabel)
        )
        if what == "label" and not self.labels:
            return None
        found = [column for column, feature in data.features.items() if isinstance(feature, kind)]
        if named is not None:
            found = [column for column in data.features if column == named]
        if len(found) == 1 or (what == "label" and not found and named is None):
            return found[0] if found else None
        raise IgptError(
            f"{self.path} has {len(found)} columns that can be data.source.{what}_column; name one of "
            f"{', '.join(data.features)}."
        )

    @functools.cached_property
    def _image_column(self) -> str:
        return self._data["train"].column_names[0]

    @functools.cached_property
    def _label_column(self) -> str | None:
        return next(iter(self._data["train"].column_names[1:]), None)

    @property
    def _numbered(self) -> bool:
        """Whether labels are stored as indices into the classes."""
        return isinstance(self._data["train"].features[self._label_column], _datasets().ClassLabel)

    @functools.cached_property
    def _class_values(self) -> list[Any]:
        if self._label_column is None:
            return []
        train = self._data["train"]
        return (
            list(train.features[self._label_column].names)
            if self._numbered
            else sorted(value for value in train.unique(self._label_column) if not _is_no_label(value))
        )


def _is_no_label(value: Any) -> bool:
    """None, and the -1 of test splits whose labels are not published."""
    return value is None or value == -1
