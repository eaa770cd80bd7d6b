"""Orders in which a sequence visits the cells of a square image; a cell is a pixel, unless the tokenizer is coarser."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from igpt import counter_rng
from igpt.errors import IgptError

Indices = NDArray[np.int64]
RASTER = "raster"  # row by row from the upper left, as in the paper
RANDOM = "random"
STREAM = 31  # of the random numbers for the random order


def order(name: str, side: int, seed: int = 0) -> Tensor:
    """Raster index (row * side + column) of the cell at each position of the sequence, (side * side,) int64.

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


# Each of these returns the raster indices of a square in its own order.


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

    It exists for powers of two. Other squares use the curve of the next power of two, without the cells outside of the
    square. Neighbors in the sequence are then not always neighbors in the image.
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
    """The cells of one color of a chessboard in raster order, then those of the other, as in AIM."""
    rows, columns = np.indices(square.shape)
    odd = (rows + columns) % 2 == 1
    return np.concatenate([square[~odd], square[odd]])


ORDERS: dict[str, Callable[[Indices], Indices]] = {
    each.__name__: each for each in (raster, column, serpentine, spiral, hilbert, checkerboard)
}
