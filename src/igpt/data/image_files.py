"""Reading image files of any format as uint8 arrays, square or whole."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
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

LONGEST = 100  # times its shorter side: the longer side of a whole image; beyond, one would take up too much memory
DRAFT = 4  # a JPEG is decoded at a reduced size, but at no less than this multiple of the resolution


Shape = Callable[[Image.Image, int], NDArray[np.uint8]]  # makes an array of an open image, at a resolution


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
    """The center square of the image in a file, (R, R, 3); one that cannot be read is an :class:`IgptError`."""
    try:
        return decode(path, resolution, square)
    except UnreadableImageError as error:
        raise IgptError(f"{path} is not an image that can be read ({error}).") from None


def read_or_blank(
    files: Iterable[tuple[str, Path | IO[bytes] | None]], resolution: int, shape: Shape
) -> tuple[list[NDArray[np.uint8]], dict[int, str]]:
    """The images in named files, and position -> "name: reason" of the unreadable ones, which are white squares."""
    images, unreadable = [], {}
    for position, (name, file) in enumerate(files):
        try:
            images.append(decode(file, resolution, shape))
        except UnreadableImageError as error:
            images.append(np.full((resolution, resolution, 3), 255, np.uint8))
            unreadable[position] = f"{name}: {error}"
    return images, unreadable


def decode(file: Path | IO[bytes] | None, resolution: int, shape: Shape) -> NDArray[np.uint8]:
    """The first frame of an image, rotated upright and on white, as the array that :func:`square` or :func:`whole`
    makes of it.

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
                return shape(image, resolution)
        except UnidentifiedImageError:
            raise UnreadableImageError("its format is unknown") from None
        except Exception as error:  # Pillow raises errors of any type on damaged files
            raise UnreadableImageError(str(error) or type(error).__name__) from None


def square(image: Image.Image, resolution: int) -> NDArray[np.uint8]:
    """The center square of an open image at the resolution, (R, R, 3); the image is rotated upright in place.

    Raises ValueError if the range of its values is unknown.
    """
    upright = _upright_rgb(image)
    side = min(upright.size)
    left, top = (upright.width - side) / 2, (upright.height - side) / 2
    return _resized(upright, (resolution, resolution), (left, top, left + side, top + side))


def whole(image: Image.Image, resolution: int) -> NDArray[np.uint8]:
    """An open image (H, W, 3) with its shorter side at the resolution; the image is rotated upright in place.

    Raises ValueError as :func:`square` does, and for an image that is too long and thin.
    """
    upright = _upright_rgb(image)
    shorter, longer = sorted(upright.size)
    if longer > LONGEST * shorter:
        raise ValueError(f"at {upright.width}x{upright.height} pixels it is more than {LONGEST} times as long as wide")
    width, height = (round(side * resolution / shorter) for side in upright.size)
    return _resized(upright, (width, height), (0, 0, *upright.size))


def _upright_rgb(image: Image.Image) -> Image.Image:
    ImageOps.exif_transpose(image, in_place=True)
    return _on_white(_eight_bit(image))


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


def _resized(image: Image.Image, size: tuple[int, int], box: tuple[float, float, float, float]) -> NDArray[np.uint8]:
    """A box of the image at another size: averaged if it is larger, or else interpolated."""
    # A box filter uses whole pixels, which displaces edges unless the ratio is an integer.
    reduces = min(image.size) >= min(size)
    return np.asarray(image.resize(size, Image.Resampling.HAMMING if reduces else Image.Resampling.BICUBIC, box))
