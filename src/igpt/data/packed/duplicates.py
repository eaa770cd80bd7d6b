"""Images that occur in two splits: all their pixels are equal at the resolution they are packed at."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from igpt.data.packed.images import images_in
from igpt.data.packed.layout import Rows, packed_folder, read_manifest
from igpt.data.packed.shards import JOURNAL
from igpt.data.sources import SPLITS, ImageSource, WholePhotos, at_resolution
from igpt.files import atomic_path
from igpt.progress import track

log = logging.getLogger(__name__)

PRECEDENCE = ("test", "validation", "train")  # a duplicate counts in the later one of its splits


def find_duplicates(splits: Mapping[str, Iterable[NDArray[np.uint8]]], exclude: Rows, full_train: bool = False) -> Rows:
    """The training images (rows) that equal a validation or test image, and the validation images that equal a test
    image; `splits` are images (H, W, 3).

    Rows in `exclude` are ignored. With `full_train`, the validation images are among the training images on purpose, so
    training images are compared with the test images alone.
    """
    held_out: set[bytes] = set()
    found: dict[str, list[int]] = {}
    for split in PRECEDENCE:
        excluded = set(exclude.get(split, ()))
        hashes = {
            row: _hash(image)
            for row, image in enumerate(track(splits[split], f"Comparing the {split} split"))
            if row not in excluded
        }
        found[split] = [row for row, digest in hashes.items() if digest in held_out]
        if split == "test" or not full_train:
            held_out.update(hashes.values())
    return found


def _hash(image: NDArray[np.uint8]) -> bytes:
    return hashlib.blake2b(bytes(str(image.shape), "ascii") + image.tobytes(), digest_size=16).digest()


def source_duplicates(source: ImageSource, folder: Path, unreadable: Rows, drop_duplicates_at: int | None) -> Rows:
    """The duplicates among the images in an unfinished folder, whose number is logged.

    The journal stores them: packing that was killed and resumes may already have dropped some.
    """
    stored = folder / JOURNAL / "duplicates.json"
    if not stored.exists():
        with atomic_path(stored) as temporary:
            temporary.write_text(json.dumps(_compare(source, folder, unreadable, drop_duplicates_at)))
    duplicates: Rows = json.loads(stored.read_text())
    if any(duplicates.values()):
        resolution = drop_duplicates_at or source.resolution
        photos = isinstance(source, WholePhotos) and not drop_duplicates_at
        where = f"as whole photos of {resolution} pixels" if photos else f"at {resolution}x{resolution}"
        log.warning(
            "%s: images that occur in two splits %s: %d of train in validation or test, %d of validation in "
            "test; %s.",
            source.name, where, len(duplicates["train"]), len(duplicates["validation"]),
            "they are left out" if drop_duplicates_at else "data.drop_duplicates=true leaves them out",
        )  # fmt: skip
    return duplicates


def _compare(source: ImageSource, folder: Path, unreadable: Rows, drop_duplicates_at: int | None) -> Rows:
    squares = source.squares if isinstance(source, WholePhotos) else source
    if drop_duplicates_at and (squares is not source or drop_duplicates_at != source.resolution):
        # The same rows are dropped whatever is stored: those that are equal at the model's resolution.
        at_model = packed_folder(at_resolution(squares, drop_duplicates_at), folder.parents[1], drop_duplicates_at)
        return dict(read_manifest(at_model)["duplicates"])
    images = {split: images_in(folder, split) for split in SPLITS}
    return find_duplicates(images, unreadable, full_train=getattr(source, "full_train", False))
