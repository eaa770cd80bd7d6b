"""Packed data: each split as one memory-mapped uint8 array, made once and read by index ever after."""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from igpt.data.sources import SPLITS, ImageSource
from igpt.errors import IgptError

FORMAT = 1  # part of the key: raise it when the layout on disk changes
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class PackedImages:
    """One split: images (n, H, W, 3) uint8, read from disk as they are needed, and labels (n,) int64."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

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


def packed_folder(source: ImageSource, cache_dir: Path) -> Path:
    return cache_dir / "packed" / f"{source.name}-{content_key({'format': FORMAT}, source.key())}"


def pack(source: ImageSource, cache_dir: Path) -> Path:
    """Write the source's splits below `cache_dir`, unless they are there; return their folder.

    The folder appears complete or not at all, and of several processes one does the work while the others wait.
    """
    folder = packed_folder(source, cache_dir)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            unfinished = folder.with_name(f"{folder.name}.{uuid.uuid4().hex[:8]}.part")
            try:
                _write(source, unfinished)
                unfinished.rename(folder)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _write(source: ImageSource, folder: Path) -> None:
    folder.mkdir()
    sizes = source.sizes()
    for split in SPLITS:
        shape = (sizes[split], source.resolution, source.resolution, 3)
        images = np.lib.format.open_memmap(folder / f"{split}.images.npy", "w+", np.uint8, shape)
        labels = np.empty(sizes[split], np.int64)
        done = 0
        for chunk_images, chunk_labels in source.chunks(split):
            images[done : done + len(chunk_images)] = chunk_images
            labels[done : done + len(chunk_labels)] = chunk_labels
            done += len(chunk_images)
        if done != sizes[split]:
            raise IgptError(f"{source.name} promised {sizes[split]} images in its {split} split and gave {done}.")
        images.flush()
        np.save(folder / f"{split}.labels.npy", labels)
    files = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    manifest = {"format": FORMAT, "source": source.key(), "classes": source.classes, "sizes": sizes, "bytes": files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2))


def open_packed(folder: Path) -> dict[str, PackedImages]:
    """The splits in `folder`, memory-mapped; a file that is missing or truncated is an error that names it."""
    advice = f"delete the folder {folder} and run the command again, which packs the data anew."
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError):
        raise IgptError(f"The packed data has no readable {folder / MANIFEST}; {advice}") from None
    for name, expected in manifest["bytes"].items():
        path = folder / name
        if not path.exists():
            raise IgptError(f"The packed data lacks {path}; {advice}")
        if path.stat().st_size != expected:
            raise IgptError(f"{path} has {path.stat().st_size} bytes instead of {expected}; {advice}")
    return {
        split: PackedImages(
            np.load(folder / f"{split}.images.npy", mmap_mode="r"),
            np.load(folder / f"{split}.labels.npy"),
        )
        for split in SPLITS
    }
