"""Random crops of whole photos: each is cut out of its photo with the pixels around it, so that crops form a batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from igpt.batch import Crops, ImageBatch
from igpt.data.augment import ImageNetCrop
from igpt.data.packed import PackedPhotos


@dataclass(frozen=True)
class PhotoWindows:
    """The crops of photos that `augment` chooses, a pure function of seed, epoch and index of each photo.

    A window has all pixels that the resized crop depends on; :func:`igpt.data.augment.resize_crops` makes it from them.
    It goes across the photo, whose rows are neighbors on disk. All windows are equally high. Where a photo is shorter,
    or ends close to the crop, a window has rows of neighboring photos, too.
    """

    photos: PackedPhotos
    augment: ImageNetCrop
    seed: int

    def __len__(self) -> int:
        return len(self.photos)

    @property
    def labels(self) -> NDArray[np.int64]:
        return self.photos.labels

    def fetch(self, index: NDArray[np.int64], epoch: NDArray[np.int64]) -> ImageBatch:
        """A batch (B,) of windows with their crops."""
        n_rows, side, _ = self.photos.rows.shape
        indices, epochs = torch.from_numpy(index), torch.from_numpy(epoch)
        start, length, transposed = torch.from_numpy(self.photos.places[index]).unbind(1)
        wide = transposed.bool()
        boxes = self._boxes_as_stored(length, wide, side, epochs, indices)

        upper, lower = boxes[:, 1], boxes[:, 3]
        height = min(self.augment.window_height(side), n_rows)
        margin = (height - (lower - upper)) / 2
        first = (start + (upper - margin).round().long()).clamp(0, n_rows - height)  # (B,)
        boxes[:, 1::2] += (start - first)[:, None]
        rows = torch.stack([start - first, start - first + length], dim=1)
        windows = torch.from_numpy(self.photos.windows(first.numpy(), height))
        labels = torch.from_numpy(self.photos.labels[index])
        return ImageBatch(windows, labels, indices, epochs, Crops(boxes, rows, wide))

    def _boxes_as_stored(
        self, length: torch.Tensor, wide: torch.Tensor, side: int, epochs: torch.Tensor, indices: torch.Tensor
    ) -> torch.Tensor:
        """The crops (B, 4) in photos of `length` rows and `side` columns, which are transposed if they are wide."""
        shorter = torch.full_like(length, side)
        widths, heights = torch.where(wide, length, shorter), torch.where(wide, shorter, length)
        boxes = self.augment.boxes(widths, heights, self.seed, epochs, indices)
        return torch.where(wide[:, None], boxes[:, [1, 0, 3, 2]], boxes)
