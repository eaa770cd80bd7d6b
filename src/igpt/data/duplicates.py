"""Images that stand in two splits: equal to the last pixel, at the resolution they are packed at."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from igpt.progress import track

TOWARDS_TRAINING = ("test", "validation", "train")


def shared_images(
    splits: Mapping[str, NDArray[np.uint8]], without: Mapping[str, Sequence[int]], full_train: bool = False
) -> dict[str, list[int]]:
    """Rows of the training and the validation images (n, R, R, 3) that equal an image further from training: those of
    train that stand in validation or test, those of validation that stand in test. The test split has none.

    Rows in `without` do not count. With `full_train` the validation images are among the training images on purpose, so
    these are compared with the test images alone.
    """
    held_out: set[bytes] = set()
    found: dict[str, list[int]] = {}
    for split in TOWARDS_TRAINING:
        skip = set(without.get(split, ()))
        hashes = {
            row: _hash(image)
            for row, image in enumerate(track(splits[split], f"Comparing the {split} split"))
            if row not in skip
        }
        found[split] = [row for row, digest in hashes.items() if digest in held_out]
        if split == "test" or not full_train:
            held_out.update(hashes.values())
    return found


def _hash(image: NDArray[np.uint8]) -> bytes:
    return hashlib.blake2b(image.tobytes(), digest_size=16).digest()
