"""Reading image files of any format as square uint8 arrays."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from igpt.errors import IgptError
from igpt.files import expand_user

SUFFIXES = frozenset((
    ".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga",
    ".tif", ".tiff", ".webp",
))  # fmt: skip

DRAFT = 4  # a JPEG is decoded at a reduced size, but at no less than this multiple of the resolution


class UnreadableImageError(Exception):
    """An image that cannot be read; the message gives the reason, as a clause."""


def is_image_name(name: str) -> bool:
    """Whether a file is an image by its suffix; hidden files, such as .DS_Store, are not."""
    return not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES


def expand_folders(paths: Sequence[str]) -> list[Path]:
    """The files at `paths`; a folder is replaced by its image files, sorted by name."""
    files: list[Path] = []
    for path in map(expand_user, paths):
        if not path.exists():
            raise IgptError(f"There is no image at {path}.")
        found = [path]
        if path.is_dir():
            found = sorted(file for file in path.iterdir() if is_image_name(file.name) and file.is_file())
        if not found:
            raise IgptError(f"{path} has no images ({', '.join(sorted(SUFFIXES))}).")
        files += found
    return files


def read_image(path: Path, resolution: int) -> NDArray[np.uint8]:
    """The image in a file, (R, R, 3), by :func:`decode`; one that cannot be read is an :class:`IgptError`."""
    try:
        return decode(path, resolution)
    except UnreadableImageError as error:
        raise IgptError(f"{path} is not an image that can be read ({error}).") from None


def read_or_blank(
    files: Iterable[tuple[str, Path | IO[bytes] | None]], resolution: int
) -> tuple[NDArray[np.uint8], dict[int, str]]:
    """Images (n, R, R, 3) of named files, and position -> "name: reason" of the unreadable ones, which are white."""
    images, unreadable = [np.empty((0, resolution, resolution, 3), np.uint8)], {}
    for position, (name, file) in enumerate(files):
        try:
            images.append(decode(file, resolution)[None])
        except UnreadableImageError as error:
            images.append(np.full((1, resolution, resolution, 3), 255, np.uint8))
            unreadable[position] = f"{name}: {error}"
    return np.concatenate(images), unreadable


def decode(file: Path | IO[bytes] | None, resolution: int) -> NDArray[np.uint8]:
    """The first frame of an image as (R, R, 3): rotated upright, on white, cropped to the center square, resized.

    An image that cannot be read is an :class:`UnreadableImageError`. Among these are a missing file (None) and images
    with more than twice `PIL.Image.MAX_IMAGE_PIXELS`.
    """
    if file is None:
        raise UnreadableImageError("it has no image data")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on metadata and size, which could be one line for each of a million files
        try:
            with Image.open(file) as image:
                image.draft(None, 2 * (DRAFT * resolution,))
                return square(image, resolution)
        except UnidentifiedImageError:
            raise UnreadableImageError("its format is unknown") from None
        except Exception as error:  # Pillow raises errors of any type on damaged files
            raise UnreadableImageError(str(error) or type(error).__name__) from None


def square(image: Image.Image, resolution: int) -> NDArray[np.uint8]:
    """An open image as (R, R, 3) by the steps of :func:`decode`; it is rotated in place.

    Raises ValueError if the range of its values is unknown.
    """
    ImageOps.exif_transpose(image, in_place=True)
    return _resized_center(_on_white(_eight_bit(image)), resolution)


def _eight_bit(image: Image.Image) -> Image.Image:
    """Gray of 16 or 32 bits as gray of 8 bits; Pillow itself would clip all values above 255.

    A TIFF of 32 bits does not say which value is white. We assume 255 if no value is larger, and 65535 otherwise.
    """
    if image.mode == "F":
        raise ValueError("it contains floating-point numbers, whose range is unknown")
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("its values do not fit into 16 bits")
    if image.mode == "I" and image.format == "TIFF" and values.max() <= 255:
        return Image.fromarray(values.astype(np.uint8))
    return Image.fromarray(np.rint(values / 257).astype(np.uint8))


def _on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _resized_center(image: Image.Image, resolution: int) -> NDArray[np.uint8]:
    """The center square at the resolution: averaged if it is larger, or else interpolated."""
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    # A box filter uses whole pixels, which displaces edges unless the ratio is an integer.
    method = Image.Resampling.HAMMING if side >= resolution else Image.Resampling.BICUBIC
    box = (left, top, left + side, top + side)
    return np.asarray(image.resize((resolution, resolution), method, box))
