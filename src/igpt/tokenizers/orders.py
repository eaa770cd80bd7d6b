"""Orders in which a sequence goes through the pixels of a square picture."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from igpt import counter_rng
from igpt.errors import IgptError

Indices = NDArray[np.int64]
RASTER = "raster"  # row by row from the upper left, what the paper does
RANDOM = "random"
STREAM = 31  # of the random numbers that shuffle


def order(name: str, side: int, seed: int = 0) -> Tensor:
    """Raster index (row * side + column) of the pixel at each position of the sequence, (side * side,) int64.

    Only `random` depends on `seed`: one fixed permutation, the same on every machine. AIM (El-Nouby et al. 2024)
    compares raster, spiral, checkerboard and fixed random orders.
    """
    require_order(name)
    if name == RANDOM:
        positions = torch.arange(side * side)
        return counter_rng.uniform(seed, torch.full_like(positions, STREAM), positions).argsort(stable=True)
    return torch.from_numpy(ORDERS[name](np.arange(side * side).reshape(side, side)).copy())


def require_order(name: str) -> None:
    if name != RANDOM and name not in ORDERS:
        raise IgptError(f"order is '{name}'; choose one of {', '.join([*ORDERS, RANDOM])}.")


# Each of these reads a square of raster indices in its own order.


def raster(square: Indices) -> Indices:
    return square.ravel()


def column(square: Indices) -> Indices:
    """Column by column from the upper left."""
    return square.T.ravel()


def serpentine(square: Indices) -> Indices:
    """Row by row, every second one from right to left."""
    return np.concatenate([row[:: -1 if i % 2 else 1] for i, row in enumerate(square)])


def spiral(square: Indices) -> Indices:
    """From the outside in, clockwise, from the upper left."""
    rows = []
    while square.size:
        rows.append(square[0])
        square = np.rot90(square[1:])
    return np.concatenate(rows)


def hilbert(square: Indices) -> Indices:
    """Hilbert's curve, from the upper left to the lower left corner.

    It exists for powers of two. Other squares take the part that lies in them of the curve for the next power of two,
    so that their neighbors in the sequence are not always neighbors in the picture.
    """
    side, size = len(square), 1
    rows, columns = np.zeros((2, 1), np.int64)
    while size < side:  # four copies: mirrored on the diagonal, two as they are, mirrored on the other diagonal
        rows, columns = (
            np.concatenate([columns, rows, rows + size, 2 * size - 1 - columns]),
            np.concatenate([rows, columns + size, columns + size, size - 1 - rows]),
        )
        size *= 2
    inside = (rows < side) & (columns < side)
    return square[rows[inside], columns[inside]]


def checkerboard(square: Indices) -> Indices:
    """The cells of the upper left one's color in raster order, then the others in raster order, as in AIM."""
    rows, columns = np.indices(square.shape)
    odd = (rows + columns) % 2 == 1
    return np.concatenate([square[~odd], square[odd]])


ORDERS: dict[str, Callable[[Indices], Indices]] = {
    each.__name__: each for each in (raster, column, serpentine, spiral, hilbert, checkerboard)
}
