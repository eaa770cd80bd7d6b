"""Nearest centroid for all 2^24 colors: exact, and fast because few centroids can be nearest within a small cube.

Shapes: B cubes of neighboring colors, k centroids, m of them that may be nearest to something in a cube.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Colors = NDArray[np.float64]  # (..., 3)
Indices = NDArray[np.int64]

BLOCK, CUBE = 16, 4  # sides: all colors are cut into blocks, and these into cubes
N_BLOCKS, N_CUBES = 256 // BLOCK, BLOCK // CUBE
CUBES = CUBE * np.stack(np.meshgrid(*3 * [np.arange(N_CUBES)], indexing="ij"), axis=-1).reshape(-1, 3)
SLACK = 1e-6  # far above the rounding errors of squared distances in float64
MANY = 16  # candidates; with more, cubes with similar numbers of candidates are searched together


def nearest_table(centroids: NDArray[np.floating]) -> NDArray[np.int16]:
    """Index of the nearest centroid, ties to the lower index, for each color r * 65536 + g * 256 + b.

    The result is bitwise equal to a brute-force search in float64: only centroids are left out that are farther than
    another one from every color in the same block, or in the same cube. It takes 0.5 to 2 s, nearly independent of the
    centroids; only thousands of them on one curve, closer together than colors, take longer (10 s).
    """
    distinct = np.sort(np.unique(centroids, axis=0, return_index=True)[1])  # the first of equal ones
    centers = centroids[distinct].astype(np.float64)
    table = np.empty((N_BLOCKS, BLOCK, N_BLOCKS, BLOCK, N_BLOCKS, BLOCK), np.int16)
    for r, g, b in np.ndindex(N_BLOCKS, N_BLOCKS, N_BLOCKS):
        table[r, :, g, :, b, :] = _nearest_in_block(centers, BLOCK * np.array([r, g, b]))
    return distinct.astype(np.int16)[table.reshape(-1)]


def _nearest_in_block(centers: Colors, lowest: Indices) -> Indices:
    """Indices (BLOCK, BLOCK, BLOCK) into `centers` for the colors of the block that begins at `lowest` (3,)."""
    candidates = np.flatnonzero(_possible(centers, lowest[None], BLOCK)[0])
    cubes = lowest + CUBES
    possible = _possible(centers[candidates], cubes, CUBE)
    count = possible.sum(axis=1)
    nearest = np.empty((len(cubes), CUBE**3), np.int64)
    for some in np.array_split(count.argsort(), 1 if count.max() <= MANY else 4):
        chosen = candidates[_indices(possible[some])]
        nearest[some] = np.take_along_axis(chosen, _search(centers[chosen], cubes[some]), axis=1)
    return nearest.reshape(3 * (N_CUBES,) + 3 * (CUBE,)).transpose(0, 3, 1, 4, 2, 5).reshape(3 * (BLOCK,))


def _possible(centers: Colors, lowest: Indices, side: int) -> NDArray[np.bool_]:
    """Which of the centers (k, 3) can be nearest to one of the side^3 colors that begin at `lowest` (B, 3): (B, k).

    The squared distance of a color from a center, minus that from a reference, is linear in the color. Its minimum in
    the cube is its value in the middle, minus half of the cube's width times 2 |center - reference|, summed over
    channels. The reference is the center that is nearest to the middle.
    """
    middle = lowest + (side - 1) / 2
    distance = (centers**2).sum(axis=1) - 2 * middle @ centers.T  # squared, without a term that all centers share
    reference = distance.argmin(axis=1)
    apart = sum(np.abs(centers[:, c] - centers[reference, c, None]) for c in range(3))
    nearest = np.take_along_axis(distance, reference[:, None], axis=1)
    possible: NDArray[np.bool_] = distance - nearest <= (side - 1) * apart + SLACK
    return possible


def _indices(possible: NDArray[np.bool_]) -> Indices:
    """Where each row (B, k) is true, ascending: (B, m); shorter rows repeat their first index at the end."""
    rows, columns = possible.nonzero()
    starts = np.searchsorted(rows, np.arange(len(possible)))
    indices = np.repeat(columns[starts][:, None], possible.sum(axis=1).max(), axis=1)
    indices[rows, np.arange(len(rows)) - starts[rows]] = columns
    return indices


def _search(centers: Colors, lowest: Indices) -> Indices:
    """Which of its centers (B, m, 3) is nearest to each color of a cube, (B, CUBE^3), by comparing all of them."""
    colors = lowest[:, None] + np.arange(CUBE)[:, None]  # (B, CUBE, 3)
    red, green, blue = np.moveaxis((colors[:, :, None] - centers[:, None]) ** 2, -1, 0)  # (B, CUBE, m)
    distance = (red[:, :, None] + green[:, None])[:, :, :, None] + blue[:, None, None]
    return distance.argmin(axis=-1).reshape(len(centers), -1)
