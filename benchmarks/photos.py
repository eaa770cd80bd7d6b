"""Small images of photographs to measure with, without a download."""

from __future__ import annotations

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

SIDE = 32


def crops(n: int, seed: int = 0) -> np.ndarray:
    """(n, 32, 32, 3) uint8: squares of 32 to 256 pixels a side, at random places of the two photographs that come with
    scikit-learn, shrunk and half of them mirrored.
    """
    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    dice = np.random.default_rng(seed)
    images = np.empty((n, SIDE, SIDE, 3), np.uint8)
    for i in range(n):
        photo = photos[dice.integers(len(photos))]
        side = int(dice.integers(SIDE, 257))
        left, upper = (int(dice.integers(0, length - side + 1)) for length in photo.size)
        box = (left, upper, left + side, upper + side)
        images[i] = np.asarray(photo.resize((SIDE, SIDE), Image.Resampling.BOX, box))[:, :: dice.choice([1, -1])]
    return images
