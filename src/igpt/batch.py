"""The two forms of a batch: images until it is on the device, tokens afterwards."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class ImageBatch(NamedTuple):
    """The output of a data loader."""

    images: Tensor  # (B, H, W, 3) uint8
    labels: Tensor  # (B,) int64
    indices: Tensor  # (B,) int64, indices of the samples in the split
    epochs: Tensor  # (B,) int64, number of complete passes over the split before the sample; 0 in evaluation


class TokenBatch(NamedTuple):
    """The input of an objective."""

    tokens: Tensor  # (B, T) int64, raster order
    labels: Tensor  # (B,) int64
    indices: Tensor  # (B,) int64
    epochs: Tensor  # (B,) int64
