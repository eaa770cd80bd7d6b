"""Augmentation of whole batches on the device, as pure functions of (seed, epoch, index of the sample)."""

from __future__ import annotations

import torch
from torch import Tensor

from igpt import counter_rng

FLIP = 1  # each kind of augmentation draws from a stream of its own


def horizontal_flip(images: Tensor, seed: int, epochs: Tensor, indices: Tensor) -> Tensor:
    """Mirror each of the images (B, H, W, 3) with probability one half."""
    stream = torch.full_like(indices, FLIP)
    flipped = counter_rng.uniform(seed, stream, epochs, indices) < 0.5
    return torch.where(flipped[:, None, None, None], images.flip(2), images)
