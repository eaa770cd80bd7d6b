"""Rotary positions (Su et al. 2021): queries and keys are turned by angles that grow with their positions."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from igpt.model.config import TransformerConfig

BASES = {"1d": 10_000.0, "2d": 100.0}  # of the frequencies: the slowest turns by about 1 / base per step


class Rotation(NamedTuple):
    """Cosines and signed sines of the angles of t positions, each (t, 1, d), or (B, t, 1, d) if the images differ."""

    cos: Tensor
    sin: Tensor

    def of(self, x: Tensor) -> Tensor:
        """Queries or keys x (B, t, h, d), turned: channels i and i + d / 2 are a pair."""
        cos, sin = self.cos.to(x.dtype), self.sin.to(x.dtype)
        return x * cos + x.roll(x.shape[-1] // 2, dims=-1) * sin


class Rotary(nn.Module):
    """The rotation of each position of the sequence.

    `2d`: half of each head's channels turn by the row of the token's cell, the other half by its column. In a causal
    model, this is the cell of the token that a position predicts, not of the one that it is given. `1d`: all channels
    turn by the position in the sequence, as in language models.

    The scores of attention then depend on differences of positions alone. The k tokens of a cell (red, green and blue)
    have the same rotation, so k > 1 needs learned positions, too.
    """

    coordinates: Tensor

    def __init__(self, config: TransformerConfig, coordinates: Tensor | None = None) -> None:
        """`coordinates` (T, 2) are the row and column of each position, as :func:`cell_coordinates` gives them; None
        are those of a square in raster order.
        """
        super().__init__()
        assert config.rotary is not None
        if config.rotary == "1d":
            coordinates = torch.arange(config.n_positions)[:, None]
        elif coordinates is None:
            coordinates = raster_coordinates(config.n_positions)
        self.frequencies = config.head_size // (2 * coordinates.shape[1])  # per axis
        self.base = BASES[config.rotary]
        self.register_buffer("coordinates", coordinates)  # integers, which no conversion of the weights rounds

    def forward(self, at: slice | Tensor) -> Rotation:
        """The rotation of the positions `at`, which index any table with a row per position."""
        coordinates = self.coordinates[at].float()  # (t, axes), or (B, t, axes)
        steps = torch.arange(self.frequencies, device=coordinates.device).float() / self.frequencies  # in any precision
        angles = (coordinates[..., None] * self.base**-steps).flatten(-2)[..., None, :]  # (t, 1, d / 2)
        cos, sin = angles.cos(), angles.sin()
        return Rotation(torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1))


def raster_coordinates(n_positions: int) -> Tensor:
    """Row and column (T, 2) of each token of a square image in raster order, whose cells have as few tokens as T
    allows: one, or the three of RGB.
    """
    k = tokens_per_cell(n_positions)
    side = math.isqrt(n_positions // k)
    return cell_coordinates(torch.arange(n_positions).view(side, side, k))


def tokens_per_cell(n_positions: int) -> int:
    """The least number of tokens per cell with which the sequence is a square of cells."""
    divisors = (k for k in range(1, n_positions + 1) if n_positions % k == 0)
    return next(k for k in divisors if math.isqrt(n_positions // k) ** 2 == n_positions // k)


def cell_coordinates(grid: Tensor) -> Tensor:
    """Row and column (T, 2) of the cell of each position. `grid` (h, w, k) has the index in the sequence of each of the
    k tokens of each cell, as :meth:`igpt.tokenizers.Tokenizer.grid` gives it.
    """
    height, width, k = grid.shape
    cells = torch.cartesian_prod(torch.arange(height), torch.arange(width))  # (h w, 2)
    coordinates = torch.empty(grid.numel(), 2, dtype=torch.long)
    coordinates[grid.flatten()] = cells.repeat_interleave(k, dim=0)
    return coordinates
