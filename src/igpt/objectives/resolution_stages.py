"""Lower resolutions in the first steps of training, a curriculum: 16x16 pixels, then 32x32, at a quarter of the cost.

The model is that of the full resolution from the first step to the last. So no weight, no moment of the optimizer and
no checkpoint changes where a stage ends, and one learning-rate schedule spans the run. An image of a lower resolution
is a shorter sequence. Each of its pixels covers a block of pixels of the full resolution:

- Its learned position is the mean of those of its block. So all of a block are trained alike, and begin the next stage
  with the same value.
- Rotary positions are those of the pixel in the same row and column, counted from the upper left corner: neighbors are
  neighbors at every resolution.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from igpt.errors import IgptError
from igpt.model.rotary import tokens_per_cell
from igpt.model.transformer import LearnedPositions, Transformer


@dataclass(frozen=True)
class ResolutionStages:
    """Pairs (resolution, step): images have this resolution until this step, and their own one after the last stage."""

    stages: Sequence[Sequence[int]] = ()

    def __post_init__(self) -> None:
        stages = tuple((resolution, step) for resolution, step in self.stages)
        for first, second in itertools.pairwise(stages):
            if first[0] >= second[0] or first[1] >= second[1]:
                raise IgptError(f"objective.stages has {first}, {second}; resolutions and steps must both increase.")
        object.__setattr__(self, "stages", stages)

    def __call__(self, images: Tensor, step: int) -> Tensor:
        """Images (B, R, R, 3) uint8 in the resolution of a training step, counted from 0."""
        resolution = next((resolution for resolution, stop in self.stages if step < stop), None)
        return images if resolution is None else averaged(images, resolution)


def averaged(images: Tensor, resolution: int) -> Tensor:
    """Images (B, R, R, 3) uint8 as (B, resolution, resolution, 3): means of blocks, rounded, halves up."""
    side = images.shape[1]
    factor, rest = divmod(side, resolution)
    if rest or factor < 2:
        raise IgptError(
            f"objective.stages has the resolution {resolution}, but the images are {side}x{side}; choose a divisor of "
            f"{side} below it."
        )
    blocks = images.reshape(-1, resolution, factor, resolution, factor, 3)
    sums = blocks.sum(dim=(2, 4), dtype=torch.long)
    return ((2 * sums + factor**2) // (2 * factor**2)).to(torch.uint8)


def low_positions(n_tokens: int, n_positions: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """For each of the `n_tokens` tokens of a low-resolution image, in raster order: the positions of the same channel
    in its block at the full resolution, (n_tokens, block), and the one in its row and column there, (n_tokens,).
    """
    factor = math.isqrt(n_positions // n_tokens)
    channels = tokens_per_cell(n_tokens)
    side = math.isqrt(n_tokens // channels)
    full = torch.arange(n_positions, device=device).view(side * factor, side * factor, channels)
    blocks = full.view(side, factor, side, factor, channels).permute(0, 2, 4, 1, 3)
    return blocks.reshape(n_tokens, -1), full[:side, :side].flatten()


def low_resolution(model: Transformer, n_tokens: int) -> tuple[Tensor | None, Tensor | None]:
    """What to add to the input of images of `n_tokens` tokens, (n_tokens, C), and their positions, (n_tokens,), as
    :meth:`Transformer.hidden` takes them; None for the full resolution.
    """
    learned = model.position_embedding
    if n_tokens == model.config.n_positions:
        return None, None
    blocks, at = low_positions(n_tokens, model.config.n_positions, model.head.weight.device)
    if not isinstance(learned, LearnedPositions):
        return None, at
    return learned.weight[blocks].mean(dim=1) - learned.weight[at], at  # the model adds the embeddings of `at`
