"""The two shapes in which a batch travels: as images until it is on the device, as tokens afterwards."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class ImageBatch(NamedTuple):
    """What a loader yields."""

    images: Tensor  # (B, H, W, 3) uint8
    labels: Tensor  # (B,) int64
    indices: Tensor  # (B,) int64, places in the split
    epochs: Tensor  # (B,) int64, how often the stream had been through the split; 0 for evaluation


class TokenBatch(NamedTuple):
    """What an objective gets."""

    tokens: Tensor  # (B, T) int64, raster order
    labels: Tensor  # (B,) int64
    indices: Tensor  # (B,) int64
    epochs: Tensor  # (B,) int64
