"""Nearest centroid for all 2^24 colours: exact, and quick because most centroids are far from most colours."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SIDE = 16  # the colour cube is cut into (256 / SIDE)^3 blocks of SIDE^3 colours


def nearest_table(centroids: NDArray[np.floating]) -> NDArray[np.int16]:
    """Index of the nearest centroid, ties to the lower index, for each colour r * 65536 + g * 256 + b.

    The result is bit-equal to a brute-force search in float64. Each block of colours is compared only with the
    centroids that can be nearest to one of its colours: those whose closest point of the block is not farther than
    some other centroid's farthest point.
    """
    centres = centroids.astype(np.float64)
    n_blocks = 256 // SIDE
    axis = np.arange(256, dtype=np.float64).reshape(n_blocks, SIDE)
    squared = (axis[..., None, None] - centres.T) ** 2  # (block, colour in block, channel, k)
    inside = (axis[:, :1, None] <= centres.T) & (axis[:, -1:, None] >= centres.T)
    near = np.where(inside, 0, np.minimum(squared[:, 0], squared[:, -1]))  # (block, channel, k)
    far = np.maximum(squared[:, 0], squared[:, -1])

    table = np.empty((n_blocks, SIDE, n_blocks, SIDE, n_blocks, SIDE), np.int16)
    for r, g, b in np.ndindex(n_blocks, n_blocks, n_blocks):
        closest = near[r, 0] + near[g, 1] + near[b, 2]
        farthest = far[r, 0] + far[g, 1] + far[b, 2]
        candidates = np.flatnonzero(closest <= farthest.min() + 1e-6)
        red, green, blue = (squared[i, :, c][:, candidates] for c, i in enumerate((r, g, b)))
        distance = (red[:, None] + green)[:, :, None] + blue  # (SIDE, SIDE, SIDE, candidates)
        table[r, :, g, :, b, :] = candidates[distance.argmin(-1)]
    return table.reshape(-1)
