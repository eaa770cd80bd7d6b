"""Packed data: each split as one memory-mapped uint8 array, made once and read by index ever after."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from igpt.data.sources import SPLITS, ImageSource
from igpt.errors import IgptError

FORMAT = 4  # part of the key: raise it when the layout on disk changes
MANIFEST = "manifest.json"
ARRAYS = ("images", "labels", "groups")  # the files of each split


@dataclass(frozen=True)
class PackedImages:
    """One split: images (n, H, W, 3) uint8, read from disk as they are needed, and labels (n,) int64.

    Images that belong together (variants of one emoji) have equal `groups` (n,); other numbers occur once.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    groups: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.images)

    def choose(self, n: int, label: int | None = None) -> NDArray[np.uint8]:
        """N images to show (or fewer, if there are not so many): the first of a class, or spread over the split."""
        if label is None:
            return self.images[np.linspace(0, len(self) - 1, min(n, len(self))).astype(int)]
        chosen = np.flatnonzero(self.labels == label)[:n]
        if len(chosen) == 0:
            raise IgptError(f"There is no image of class {label} to show; choose another class, or null for any.")
        return self.images[chosen]


def content_key(*parts: dict[str, Any]) -> str:
    """A short hash of plain values; the name under which something that depends on them is cached."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def packed_folder(source: ImageSource, cache_dir: Path, drop_equal_at: int | None = None) -> Path:
    """Where the packed copy of a source lies, or will lie; with `drop_equal_at`, without images that equal a held-out
    one at this resolution.
    """
    how = {"format": FORMAT, "drop_equal_at": drop_equal_at}
    return cache_dir / "packed" / f"{source.name}-{content_key(how, source.key())}"


def array_file(folder: Path, split: str, what: str) -> Path:
    """The file of a split's `images`, `labels` or `groups`."""
    return folder / f"{split}.{what}.npy"


def read_manifest(folder: Path) -> dict[str, Any]:
    """What packing wrote about the folder."""
    try:
        return dict(json.loads((folder / MANIFEST).read_text()))
    except (OSError, ValueError):
        raise IgptError(f"The packed data has no readable {folder / MANIFEST}; {pack_anew(folder)}") from None


def pack_anew(folder: Path) -> str:
    """What to do about damaged data."""
    return f"delete the folder {folder} and run the command again, which packs the data anew."


def packed_files(folder: Path) -> dict[str, str]:
    """The files of packed data with their checksums; one that is missing or truncated is an error that names it."""
    files = read_manifest(folder)["files"]
    for name, about in files.items():
        path = folder / name
        if not path.exists():
            raise IgptError(f"The packed data lacks {path}; {pack_anew(folder)}")
        if path.stat().st_size != about["bytes"]:
            raise IgptError(f"{path} has {path.stat().st_size} bytes instead of {about['bytes']}; {pack_anew(folder)}")
    return {name: about["sha256"] for name, about in files.items()}


def open_packed(folder: Path) -> dict[str, PackedImages]:
    """The splits in `folder`, memory-mapped."""
    packed_files(folder)
    return {
        split: PackedImages(
            np.load(array_file(folder, split, "images"), mmap_mode="r"),
            np.load(array_file(folder, split, "labels")),
            np.load(array_file(folder, split, "groups")),
        )
        for split in SPLITS
    }
