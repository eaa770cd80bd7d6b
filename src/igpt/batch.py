"""The two forms of a batch: images until it is on the device, tokens afterwards."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Crops(NamedTuple):
    """The crops of a batch of windows, which were cut out of photos whose longer side is vertical."""

    values: Tensor  # (B, 7) float64: one tensor, since a data worker takes time for each that it hands over

    @property
    def boxes(self) -> Tensor:
        """Left, upper, right and lower edges (B, 4) float64, in pixels of the window."""
        return self.values[:, :4]

    @property
    def rows(self) -> Tensor:
        """First and last (exclusive) row of the window that belongs to the photo, (B, 2) int64."""
        return self.values[:, 4:6].long()

    @property
    def transposed(self) -> Tensor:
        """Whether the photo is stored transposed, (B,) bool."""
        return self.values[:, 6].bool()


class ImageBatch(NamedTuple):
    """The output of a data loader."""

    images: Tensor  # (B, H, W, 3) uint8
    labels: Tensor  # (B,) int64
    indices: Tensor  # (B,) int64, indices of the samples in the split
    epochs: Tensor  # (B,) int64, number of complete passes over the split before the sample; 0 in evaluation
    crops: Crops | None = None  # if the images are windows, the crops in them


class TokenBatch(NamedTuple):
    """The input of an objective."""

    tokens: Tensor  # (B, T) int64, in the order of the tokenizer
    labels: Tensor  # (B,) int64
    indices: Tensor  # (B,) int64
    epochs: Tensor  # (B,) int64


def n_micro_batches(share: int, largest: int | None) -> int:
    """How many micro-batches make up the `share` of a device in a batch: as few of equal size as have at most `largest`
    images; None: one.
    """
    return next(n for n in range(1, share + 1) if share % n == 0 and share // n <= (largest or share))
