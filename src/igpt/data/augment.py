"""Augmentation of whole batches on the device, as pure functions of (seed, epoch, index of the sample)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from igpt import counter_rng
from igpt.errors import IgptError

# Each kind of random number has a stream of its own.
FLIP, ROW, COLUMN, SIDE = 1, 2, 3, 4

UNIT = 2.0**22  # what the weights of an output pixel sum to, about


class Augmentation(Protocol):
    """A random view of each image, the same whenever seed, epoch and index are."""

    def output_resolution(self, stored: int) -> int:
        """Pixels a side of the views of images with `stored` pixels a side; IgptError where there are none."""

    def __call__(self, images: Tensor, seed: int, epochs: Tensor, indices: Tensor) -> Tensor:
        """Views (B, R, R, 3) uint8 of images (B, S, S, 3) uint8, drawn by int64 epochs (B,) and indices (B,)."""


@dataclass(frozen=True)
class Identity:
    """Images as they are."""

    def output_resolution(self, stored: int) -> int:
        return stored

    def __call__(self, images: Tensor, seed: int, epochs: Tensor, indices: Tensor) -> Tensor:
        return images


@dataclass(frozen=True)
class Flip:
    """Each image is mirrored with probability one half."""

    def output_resolution(self, stored: int) -> int:
        return stored

    def __call__(self, images: Tensor, seed: int, epochs: Tensor, indices: Tensor) -> Tensor:
        flipped = _Dice(seed, epochs, indices).coin(FLIP)
        return torch.where(flipped[:, None, None, None], images.flip(2), images)


@dataclass(frozen=True)
class PadCropFlip:
    """A crop of the image's own size out of the image padded by reflection; mirrored at random if `flip`.

    As in the paper's fine-tuning on CIFAR (section 3.1), with 4 pixels of padding. Reflection leaves the border pixel
    out, as numpy's "reflect" does.
    """

    padding: int = 4
    flip: bool = True

    def __post_init__(self) -> None:
        if self.padding < 0:
            raise IgptError(f"data.augment.padding is {self.padding}; it must be 0 or more.")

    def output_resolution(self, stored: int) -> int:
        if self.padding >= stored:
            raise IgptError(
                f"data.augment.padding is {self.padding}, but the images have {stored} pixels a side; reflection needs "
                f"a padding of {stored - 1} or less."
            )
        return stored

    def __call__(self, images: Tensor, seed: int, epochs: Tensor, indices: Tensor) -> Tensor:
        side = self.output_resolution(images.shape[1])
        dice = _Dice(seed, epochs, indices)
        rows = self._reflected(dice.below(2 * self.padding + 1, ROW), side)
        columns = self._reflected(dice.below(2 * self.padding + 1, COLUMN), side)
        if self.flip:
            columns = torch.where(dice.coin(FLIP)[:, None], columns.flip(1), columns)
        sample = torch.arange(len(images), device=images.device)[:, None, None]
        return images[sample, rows[:, :, None], columns[:, None, :]]

    def _reflected(self, offsets: Tensor, side: int) -> Tensor:
        """Where in the image (B, side) the rows of crops at `offsets` (B,) in the padded image come from."""
        places = offsets[:, None] - self.padding + torch.arange(side, device=offsets.device)
        return (side - 1) - (side - 1 - places.abs()).abs()


@dataclass(frozen=True)
class ImageNetCrop:
    """The paper's view of a photo (section 3.1), in one resize where the paper has two.

    The photo's shorter side becomes a whole number drawn from `shorter_side` (both ends included), a square of `crop`
    pixels is cut out at a random place, and it becomes `resolution` pixels wide. Here the square is a box in the
    stored image, whose side stands for the shorter side. Packed images are the center squares of photos, so the crops
    lie in the center square too, while the paper's reach the ends of the longer side.
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
                f"data.augment.crop={self.crop} must be 1 or more and fit into the shorter side, and "
                f"data.augment.shorter_side=[{smallest}, {largest}] must name the smaller end first."
            )

    def output_resolution(self, stored: int) -> int:
        return self.resolution

    def __call__(self, images: Tensor, seed: int, epochs: Tensor, indices: Tensor) -> Tensor:
        return resize(images, self.resolution, self.boxes(images.shape[1], seed, epochs, indices))

    def boxes(self, stored: int, seed: int, epochs: Tensor, indices: Tensor) -> Tensor:
        """The crops as (left, upper, right, lower), (B, 4) float64, in pixels of an image `stored` pixels wide."""
        dice = _Dice(seed, epochs, indices)
        smallest, largest = self.shorter_side
        side = smallest + dice.below(largest - smallest + 1, SIDE)
        left, upper = dice.below(side - self.crop + 1, COLUMN), dice.below(side - self.crop + 1, ROW)
        corners = torch.stack([left, upper, left + self.crop, upper + self.crop], dim=1)
        return corners * stored / side[:, None].double()


@dataclass(frozen=True)
class _Dice:
    """Random numbers (B,) of the samples of a batch, from numbered streams."""

    seed: int
    epochs: Tensor
    indices: Tensor

    def uniform(self, stream: int) -> Tensor:
        """float64 in [0, 1)."""
        return counter_rng.uniform(self.seed, torch.full_like(self.indices, stream), self.epochs, self.indices)

    def below(self, n: int | Tensor, stream: int) -> Tensor:
        """int64 in [0, n)."""
        return (self.uniform(stream) * n).long()

    def coin(self, stream: int) -> Tensor:
        """True with probability one half."""
        return self.uniform(stream) < 0.5


def resize(images: Tensor, resolution: int, box: Tensor | None = None) -> Tensor:
    """The content of `box` in images (B, H, W, 3) uint8, as (B, resolution, resolution, 3) uint8, antialiased.

    `box` is (left, upper, right, lower) in pixels, (4,) or (B, 4) for a box an image, inside the picture and not empty;
    without one it is the whole picture. This is Pillow's BILINEAR to within one level: Pillow rounds to uint8 between
    its two passes, too. It needs 24 H W bytes an image: 200 MB for 128 images of 256 x 256.
    """
    height, width = images.shape[1:3]
    if box is None:
        if (height, width) == (resolution, resolution):
            return images
        box = torch.tensor([0, 0, width, height], device=images.device)
    left, upper, right, lower = box.double().view(-1, 4, 1, 1).unbind(1)
    # Weights are whole numbers, so all sums are, and they stay below 2^53: float64 is exact in whatever order it adds.
    # So a view depends neither on the device nor on what else is in the batch, which float32 could not promise.
    rows = _weights(height, resolution, upper, lower) @ images.double().flatten(2)
    columns = rows.unflatten(2, (width, 3)).transpose(1, 2).flatten(2)
    sums = (_weights(width, resolution, left, right) @ columns).unflatten(2, (resolution, 3)).transpose(1, 2)
    return (sums / UNIT**2 + 0.5).clamp(max=255).to(torch.uint8)


def _weights(size: int, resolution: int, start: Tensor, stop: Tensor) -> Tensor:
    """What each of `size` pixels adds to each of `resolution` pixels laid over [start, stop): (B, resolution, size).

    A triangle reaches one output pixel to either side, or one input pixel where those are larger. `start` and `stop`
    have shape (B, 1, 1). The weights are whole numbers in float64, in units of 1 / UNIT.
    """
    step = (stop - start) / resolution
    centers = start + step * (torch.arange(resolution, device=start.device)[:, None] + 0.5)
    pixels = torch.arange(size, device=start.device) + 0.5
    triangle = (1 - (pixels - centers).abs() / step.clamp(min=1)).clamp(min=0)
    return (triangle / triangle.sum(dim=2, keepdim=True) * UNIT).round()
