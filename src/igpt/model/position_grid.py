"""Learned position embeddings at another resolution."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def interpolate_positions(weight: Tensor, grid: Tensor, new_grid: Tensor) -> Tensor:
    """Position embeddings (T, C), interpolated to another grid of cells: (T', C).

    `grid` (h, w, k) has the index in the sequence of each of the k tokens of each cell, `new_grid` (h', w', k) the same
    of the new sequence. Row t of an embedding belongs to token t in every model: an autoregressive one adds it where it
    predicts token t. The k tokens of a cell, such as its red, green and blue, are interpolated separately.
    """
    height, width, k = new_grid.shape
    cells = weight[grid].flatten(2).permute(2, 0, 1)  # (k * C, h, w)
    resized = F.interpolate(cells[None].float(), size=(height, width), mode="bicubic", align_corners=False)[0]
    new = torch.empty(new_grid.numel(), weight.shape[1], dtype=weight.dtype, device=weight.device)
    new[new_grid] = resized.permute(1, 2, 0).unflatten(2, (k, -1)).to(weight.dtype)  # (h', w', k, C)
    return new
