"""The folder of packed data: its name, its files, and the manifest that describes them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from igpt.data.sources import SPLITS, ImageSource, WholePhotos
from igpt.errors import IgptError
from igpt.files import sha256

FORMAT = 5  # part of the folder's name; increase it when the files change their meaning
MANIFEST = "manifest.json"
ARRAYS = ("images", "labels", "groups")  # each split has one file of each
PHOTO_ARRAYS = ("images", "places", "labels", "groups")  # the same, for whole photos

Rows = Mapping[str, Sequence[int]]  # split -> some of its rows


def cache_key(*parts: dict[str, Any]) -> str:
    """A short hash of plain values, which names a cached file that depends on them."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def packed_folder(source: ImageSource, cache_dir: Path, drop_duplicates_at: int | None = None) -> Path:
    """The folder of the packed copy of a source, which need not exist yet.

    With `drop_duplicates_at`, the copy leaves out images that equal a held-out one at this resolution.
    """
    settings = {"format": FORMAT, "drop_duplicates_at": drop_duplicates_at}
    return cache_dir / "packed" / f"{source.name}-{cache_key(settings, source.key())}"


def arrays_of(source: ImageSource) -> tuple[str, ...]:
    """Names of the arrays of each split.

    Of squares, `images` has one entry (R, R, 3) per image. Of whole photos, it has the rows (R, 3) of all photos, whose
    longer side is vertical: the others are transposed. `places` has the first row of each photo, the number of its rows
    and whether it is transposed.
    """
    return PHOTO_ARRAYS if isinstance(source, WholePhotos) else ARRAYS


def array_file(folder: Path, split: str, array: str) -> Path:
    """The file of an array of a split."""
    return folder / f"{split}.{array}.npy"


def write_manifest(source: ImageSource, folder: Path, duplicates: Rows) -> None:
    """Describe the folder: source, shapes, checksums of the files, and which rows of the source were duplicates."""
    arrays = [array_file(folder, split, array) for split in SPLITS for array in arrays_of(source)]
    manifest = {
        "format": FORMAT,
        "source": source.key(),
        "classes": source.classes,
        "shapes": {split: np.load(array_file(folder, split, "images"), mmap_mode="r").shape for split in SPLITS},
        "files": {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in arrays},
        "duplicates": duplicates,
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2))


def read_manifest(folder: Path) -> dict[str, Any]:
    """What :func:`write_manifest` has written; an :class:`IgptError` if it cannot be read."""
    try:
        return dict(json.loads((folder / MANIFEST).read_text()))
    except (OSError, ValueError):
        raise IgptError(f"The packed data has no readable {folder / MANIFEST}; {repack_advice(folder)}") from None


def repack_advice(folder: Path) -> str:
    """What to do about damaged data, as the end of a sentence."""
    return f"delete the folder {folder} and run the command again, which packs the data again."


def expected_checksums(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file by the manifest. A missing or truncated file is an :class:`IgptError` that names it."""
    files = read_manifest(folder)["files"]
    for name, expected in files.items():
        path = folder / name
        if not path.exists():
            raise IgptError(f"The packed data lacks {path}; {repack_advice(folder)}")
        size = path.stat().st_size
        if size != expected["bytes"]:
            raise IgptError(f"{path} has {size} bytes instead of {expected['bytes']}; {repack_advice(folder)}")
    return {name: expected["sha256"] for name, expected in files.items()}
