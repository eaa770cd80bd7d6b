"""Augmentation of batches on the device, as pure functions of (seed, epoch, index of the sample)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from igpt import counter_rng
from igpt.batch import Crops
from igpt.errors import IgptError

# Streams of random numbers, one for each random choice.
FLIP, ROW, COLUMN, SIDE = 1, 2, 3, 4

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

WEIGHT_SUM = 2.0**22  # approximate sum of the integer weights of an output pixel


class Augmentation(Protocol):
    """A random view of each image, which depends on seed, epoch and index alone."""

    def output_resolution(self, stored: int) -> int:
        """Side of the views, in pixels, of images of side `stored`; IgptError if that is impossible."""

    def __call__(self, images: Tensor, seed: int, epochs: Tensor, indices: Tensor) -> Tensor:
        """Views (B, R, R, 3) uint8 of images (B, S, S, 3) uint8; `epochs` and `indices` are (B,) int64."""


@dataclass(frozen=True)
class Identity:
    """No augmentation."""

    def output_resolution(self, stored: int) -> int:
        return stored

    def __call__(self, images: Tensor, seed: int, epochs: Tensor, indices: Tensor) -> Tensor:
        return images


@dataclass(frozen=True)
class Flip:
    """Mirror each image with probability one half."""

    def output_resolution(self, stored: int) -> int:
        return stored

    def __call__(self, images: Tensor, seed: int, epochs: Tensor, indices: Tensor) -> Tensor:
        flipped = _BatchRandom(seed, epochs, indices).coin(FLIP)
        return torch.where(flipped[:, None, None, None], images.flip(2), images)


@dataclass(frozen=True)
class PadCropFlip:
    """Pad each image by reflection, crop its original size at random, and mirror it at random if `flip`.

    The paper's fine-tuning on CIFAR (section 3.1) pads by 4 pixels. Reflection does not repeat the border pixels, as in
    numpy's mode "reflect".
    """

    padding: int = 4
    flip: bool = True

    def __post_init__(self) -> None:
        if self.padding < 0:
            raise IgptError(f"data.augment.padding is {self.padding}; it must be 0 or more.")

    def output_resolution(self, stored: int) -> int:
        if self.padding >= stored:
            raise IgptError(
                f"data.augment.padding is {self.padding}, but the images are {stored}x{stored}; reflection needs a "
                f"padding of {stored - 1} or less."
            )
        return stored

    def __call__(self, images: Tensor, seed: int, epochs: Tensor, indices: Tensor) -> Tensor:
        side = self.output_resolution(images.shape[1])
        random = _BatchRandom(seed, epochs, indices)
        rows = self._reflected(random.below(2 * self.padding + 1, ROW), side)
        columns = self._reflected(random.below(2 * self.padding + 1, COLUMN), side)
        if self.flip:
            columns = torch.where(random.coin(FLIP)[:, None], columns.flip(1), columns)
        sample = torch.arange(len(images), device=images.device)[:, None, None]
        return images[sample, rows[:, :, None], columns[:, None, :]]

    def _reflected(self, offsets: Tensor, side: int) -> Tensor:
        """Rows (B, side) of the image that crops at `offsets` (B,) in the padded image show."""
        rows = offsets[:, None] - self.padding + torch.arange(side, device=offsets.device)  # (B, side)
        return (side - 1) - (side - 1 - rows.abs()).abs()


@dataclass(frozen=True)
class ImageNetCrop:
    """The paper's augmentation of ImageNet (section 3.1), with one resize instead of two.

    The shorter side of the photo is resized to a random integer in `shorter_side` (both ends included), a square of
    `crop` pixels is cropped at random, and resized to `resolution`. Here the crop is a box in the stored photo, whose
    shorter side corresponds to that of the resized one. Photos are stored whole, and :mod:`igpt.data.photo_windows`
    cuts the box with its surroundings out of them. Images that are square anyway are cropped by calling this object.
    """

    resolution: int = 32
    shorter_side: tuple[int, int] = (256, 384)
    crop: int = 224

    def __post_init__(self) -> None:
        if self.resolution < 1:
            raise IgptError(f"data.augment.resolution is {self.resolution}; it must be 1 or more.")
        smallest, largest = self.shorter_side
        if not 1 <= self.crop <= smallest <= largest:
            raise IgptError(
                f"data.augment.crop={self.crop} must be between 1 and the smaller end of data.augment.shorter_side="
                f"[{smallest}, {largest}], which must come first."
            )

    def output_resolution(self, stored: int) -> int:
        return self.resolution

    def __call__(self, images: Tensor, seed: int, epochs: Tensor, indices: Tensor) -> Tensor:
        side = images.shape[1]
        sizes = torch.full_like(indices, side).expand(2, -1)
        streams = torch.arange(ROW, SIDE + 1, device=indices.device)  # all at once, which is faster
        random = counter_rng.uniform(seed, streams[:, None], epochs, indices)  # (3, B)
        return resize(images, self.resolution, torch.cat(self._boxes(sizes, side, random)).T)

    def boxes(
        self, sizes: Integers, shorter: int, seed: int, epochs: Integers, indices: Integers
    ) -> tuple[Floats, Floats]:
        """The crops' corners (left, upper) and (right, lower), (2, B) each, in pixels of stored photos.

        `sizes` (2, B) are the photos' widths and heights; all have the same `shorter` side. The calling object crops
        squares in the same way, but on their device.
        """
        integers = counter_rng.integers(seed, np.arange(ROW, SIDE + 1)[:, None], epochs, indices)  # (3, B)
        corners: tuple[Floats, Floats] = self._boxes(sizes, shorter, integers / counter_rng.RANGE)
        return corners

    def _boxes(self, sizes: Any, shorter: int, random: Any) -> tuple[Any, Any]:
        """The same, of tensors or NumPy arrays, with random numbers (3, B) for row, column and size.

        Whole numbers are kept in float64, where they are exact.
        """
        floor = torch.floor if isinstance(random, Tensor) else np.floor
        smallest, largest = self.shorter_side
        side = smallest + floor(random[2] * (largest - smallest + 1))  # (B,) of the resized photo
        resized = floor(sizes * side / shorter)  # (2, B); no quotient rounds up to a whole number
        start = floor(random[[1, 0]] * (resized - self.crop + 1))
        return start * sizes / resized, (start + self.crop) * sizes / resized

    def window_height(self, stored: int) -> int:
        """Rows that a crop and the pixels around it that its resizing uses take up, in a photo of width `stored`."""
        smallest = self.shorter_side[0]
        largest_crop = self.crop * stored / smallest * (1 + 1 / smallest)  # the longer side is rounded down
        return math.ceil(largest_crop + 2 * max(largest_crop / self.resolution, 1)) + 1


@dataclass(frozen=True)
class _BatchRandom:
    """Random numbers (B,) for the samples of a batch, from numbered streams."""

    seed: int
    epochs: Tensor
    indices: Tensor

    def uniform(self, stream: int) -> Tensor:
        """float64 in [0, 1)."""
        return counter_rng.of_samples(self.seed, stream, self.epochs, self.indices)

    def below(self, n: int, stream: int) -> Tensor:
        """int64 in [0, n)."""
        return (self.uniform(stream) * n).long()

    def coin(self, stream: int) -> Tensor:
        """True with probability one half."""
        return self.uniform(stream) < 0.5


def resize_crops(windows: Tensor, resolution: int, crops: Crops) -> Tensor:
    """The crops in `windows` (B, H, W, 3) uint8, as upright images (B, resolution, resolution, 3) uint8."""
    views = resize(windows, resolution, crops.boxes, crops.rows)
    return torch.where(crops.transposed[:, None, None, None], views.transpose(1, 2), views)


def resize(images: Tensor, resolution: int, box: Tensor | None = None, rows: Tensor | None = None) -> Tensor:
    """The content of `box` in images (B, H, W, 3) uint8, as (B, resolution, resolution, 3) uint8, antialiased.

    `box` is (left, upper, right, lower) in pixels, (4,) or (B, 4) for one box per image, inside the image and not
    empty; by default it is the whole image. `rows` (B, 2) are the first and the last row (exclusive) that belong to
    each image; by default, all do. The result differs from Pillow's BILINEAR by at most one level, since
    Pillow also rounds to uint8 between its two passes. It takes 24 H W bytes per image: 200 MB for 128 images of
    256 x 256.
    """
    height, width = images.shape[1:3]
    if box is None:
        if (height, width) == (resolution, resolution):
            return images
        box = torch.tensor([0, 0, width, height], device=images.device)
    left, upper, right, lower = box.double().view(-1, 4, 1, 1).unbind(1)
    # Weights are integers, and all sums of products stay below 2^53, so float64 is exact in any order of addition.
    # A view therefore depends neither on the device nor on the rest of the batch, which float32 could not ensure.
    weights = _weights(height, resolution, upper, lower, rows)
    resized = weights @ images.double().flatten(2)  # (B, resolution, W * 3)
    columns = resized.unflatten(2, (width, 3)).transpose(1, 2).flatten(2)  # (B, W, resolution * 3)
    sums = _weights(width, resolution, left, right) @ columns  # (B, columns, rows * 3)
    sums = sums.unflatten(2, (resolution, 3)).transpose(1, 2)
    return (sums / WEIGHT_SUM**2 + 0.5).clamp(max=255).to(torch.uint8)


def _weights(size: int, resolution: int, start: Tensor, stop: Tensor, inside: Tensor | None = None) -> Tensor:
    """Weights (B, resolution, size) of `size` input pixels in `resolution` output pixels that cover [start, stop).

    The filter is a triangle that reaches one output pixel to either side, or one input pixel where those are larger.
    `start` and `stop` have shape (B, 1, 1). Pixels outside of the range `inside` (B, 2) have the weight 0. The weights
    are integers in float64 that sum to about WEIGHT_SUM.
    """
    step = (stop - start) / resolution
    centers = start + step * (torch.arange(resolution, device=start.device)[:, None] + 0.5)
    pixels = torch.arange(size, device=start.device) + 0.5
    triangle = (1 - (pixels - centers).abs() / step.clamp(min=1)).clamp(min=0)
    if inside is not None:
        first, last = inside.view(-1, 2, 1, 1).unbind(1)
        triangle = triangle.where((pixels > first) & (pixels < last), 0)
    return (triangle / triangle.sum(dim=2, keepdim=True) * WEIGHT_SUM).round()
