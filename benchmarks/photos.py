"""Small images from photographs that need no download."""

from __future__ import annotations

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

SIDE = 32


def crops(n: int, seed: int = 0) -> np.ndarray:
    """Random crops (n, 32, 32, 3) uint8 of the two photographs that come with scikit-learn.

    Squares of side 32 to 256 are resized, and half of them mirrored.
    """
    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    rng = np.random.default_rng(seed)
    images = np.empty((n, SIDE, SIDE, 3), np.uint8)
    for i in range(n):
        photo = photos[rng.integers(len(photos))]
        side = int(rng.integers(SIDE, 257))
        left, upper = (int(rng.integers(0, length - side + 1)) for length in photo.size)
        box = (left, upper, left + side, upper + side)
        images[i] = np.asarray(photo.resize((SIDE, SIDE), Image.Resampling.BOX, box))[:, :: rng.choice([1, -1])]
    return images
