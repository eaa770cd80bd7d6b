"""Arrays of images at a lower resolution."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def area_average(images: NDArray[np.uint8], resolution: int) -> NDArray[np.uint8]:
    """Average images (n, R, R, 3) over square blocks, to a resolution that divides R."""
    n, side = images.shape[:2]
    if side == resolution:
        return images
    block = side // resolution
    means = images.reshape(n, resolution, block, resolution, block, 3).mean(axis=(2, 4))
    return np.rint(means).astype(np.uint8)
