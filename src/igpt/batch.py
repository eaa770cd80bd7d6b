"""The two shapes in which a batch travels: as images until it is on the device, as tokens afterwards."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class ImageBatch(NamedTuple):
    """What a loader yields."""

    images: Tensor  # (B, H, W, 3) uint8
    labels: Tensor  # (B,) int64
    index: Tensor  # (B,) int64, the sample's place in its split
    epoch: Tensor  # (B,) int64, 0 for evaluation


class TokenBatch(NamedTuple):
    """What an objective gets."""

    tokens: Tensor  # (B, T) int64, raster order
    labels: Tensor  # (B,) int64
    index: Tensor  # (B,) int64
    epoch: Tensor  # (B,) int64
