"""Images passed to the Python API, in any of several forms, as one uint8 array."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from igpt.data.image_files import expand_folders, read_image, square
from igpt.errors import IgptError


def read_images(paths: str | PathLike[str] | Sequence[str | PathLike[str]], resolution: int) -> NDArray[np.uint8]:
    """Read image files, or folders of them, as training does: uint8 (N, R, R, 3), the center square of each image,
    averaged down to R = `resolution` pixels a side.
    """
    if resolution < 1:
        raise IgptError(f"The resolution is {resolution}; give 1 or more pixels a side.")
    several = [paths] if isinstance(paths, (str, PathLike)) else paths
    files = expand_folders([str(path) for path in several])
    return np.stack([read_image(file, resolution) for file in files]) if files else empty(resolution)


def as_images(images: Any, resolution: int) -> NDArray[np.uint8]:
    """Images as uint8 (N, R, R, 3).

    `images` is an array or tensor of that shape; one image; or a list of images. An image is an array or a tensor
    (R, R, 3), or a PIL image of any size, which is cropped and resized as in training.

    Raises :class:`IgptError` for anything else, for an empty batch, and for another dtype than uint8.
    """
    if isinstance(images, (list, tuple)):
        found = np.stack([one_image(image, resolution) for image in images]) if images else empty(resolution)
    elif isinstance(images, Image.Image) or (is_array(images) and images.ndim == 3):
        found = one_image(images, resolution)[None]
    else:
        found = checked(images, (4,), resolution)
    if len(found) == 0:
        raise IgptError("No image is given; give at least one.")
    return found


def as_mask(mask: Any, n: int, resolution: int) -> torch.Tensor:
    """A mask (H, W) for all of n images, or one for each (n, H, W), as a bool tensor (n, H, W) on the CPU."""
    shapes = ((resolution, resolution), (n, resolution, resolution))
    if not is_array(mask) or mask.dtype not in (torch.bool, np.dtype(bool)) or mask.shape not in shapes:
        kind = f"{mask.dtype} of shape {tuple(mask.shape)}" if is_array(mask) else type(mask).__name__
        raise IgptError(
            f"A mask must be bool, of shape {shapes[0]} or {shapes[1]}, True where to fill; this is {kind}."
        )
    found = mask.cpu() if isinstance(mask, torch.Tensor) else torch.from_numpy(mask.copy())  # views may be flipped
    return found.expand(n, resolution, resolution)


def read_masks(paths: str | PathLike[str] | Sequence[str | PathLike[str]], resolution: int) -> NDArray[np.bool_]:
    """Masks (N, R, R) from image files, cropped and resized as images are; light pixels are to be filled."""
    light: NDArray[np.bool_] = read_images(paths, resolution).mean(axis=-1) > 127.5
    return light


def one_image(image: Any, resolution: int) -> NDArray[np.uint8]:
    """(R, R, 3)."""
    if not isinstance(image, Image.Image):
        return checked(image, (3,), resolution)
    copy = ImageOps.exif_transpose(image)
    copy.format = image.format  # lost in copies, but decides how 32-bit pixels are read
    try:
        return square(copy, resolution)
    except ValueError as error:
        raise IgptError(f"An image of mode {image.mode} cannot be used: {error}.") from None


def checked(images: Any, dimensions: tuple[int, ...], resolution: int) -> NDArray[np.uint8]:
    """An array or tensor as a uint8 array; raises :class:`IgptError` unless shape and dtype are right."""
    wanted = f"uint8 images of shape (N, {resolution}, {resolution}, 3)"
    if not is_array(images):
        hint = "; igpt.read_images reads files" if isinstance(images, (str, PathLike)) else ""
        raise IgptError(f"The model takes {wanted}, PIL images, or lists of images, not {type(images).__name__}{hint}.")
    array = images.detach().cpu().numpy() if isinstance(images, torch.Tensor) else images
    if array.ndim not in dimensions or array.shape[-3:] != (resolution, resolution, 3) or array.dtype != np.uint8:
        raise IgptError(f"The model takes {wanted}; these are {array.dtype} of shape {array.shape}.")
    return array


def is_array(value: Any) -> bool:
    return isinstance(value, (np.ndarray, torch.Tensor))


def empty(resolution: int) -> NDArray[np.uint8]:
    return np.empty((0, resolution, resolution, 3), np.uint8)
