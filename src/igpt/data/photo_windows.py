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
        start, length, transposed = self.photos.places[index].T
        wide = transposed.astype(bool)
        # In NumPy, which is several times as fast as torch for arrays of this size.
        sizes = np.full((2, len(index)), side)  # (width, height)
        np.copyto(sizes, length, where=np.stack([wide, ~wide]))
        corners = self.augment.boxes(sizes, side, self.seed, epoch, index)
        # Wide photos are stored transposed.
        (left, upper), (right, lower) = (np.where(wide, corner[::-1], corner) for corner in corners)  # (B,) each

        height = min(self.augment.window_height(side), n_rows)
        margin = (height - (lower - upper)) / 2
        first = (start + np.rint(upper - margin).astype(np.int64)).clip(0, n_rows - height)  # (B,)
        shift = start - first
        values = np.stack([left, upper + shift, right, lower + shift, shift, shift + length, wide], axis=1)  # (B, 7)
        windows = torch.from_numpy(self.photos.windows(first, height))
        labels = torch.from_numpy(self.photos.labels[index])
        crops = Crops(torch.from_numpy(values))
        return ImageBatch(windows, labels, torch.from_numpy(index), torch.from_numpy(epoch), crops)
