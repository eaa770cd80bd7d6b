"""Image files of any kind as square uint8 arrays."""

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

DRAFT = 4  # a JPEG is decoded at a fraction of its size, but at least at this multiple of the resolution


class UnreadableImageError(Exception):
    """An image that cannot be used; the message says why, as a clause."""


def is_image_name(name: str) -> bool:
    """Whether a file in a folder is taken for an image: by its suffix, and not with a dot in front (.DS_Store)."""
    return not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES


def expand(paths: Sequence[str]) -> list[Path]:
    """The files that `paths` name; a folder stands for its image files, by name."""
    files: list[Path] = []
    for path in map(expand_user, paths):
        if not path.exists():
            raise IgptError(f"There is no image at {path}.")
        found = sorted(f for f in path.iterdir() if is_image_name(f.name) and f.is_file()) if path.is_dir() else [path]
        if not found:
            raise IgptError(f"{path} has no images ({', '.join(sorted(SUFFIXES))}).")
        files += found
    return files


def read_image(path: Path, resolution: int) -> NDArray[np.uint8]:
    """(R, R, 3): see :func:`decode`; a file that is no image is an :class:`IgptError`."""
    try:
        return decode(path, resolution)
    except UnreadableImageError as error:
        raise IgptError(f"{path} is not an image that can be read ({error}).") from None


def read_or_blank(
    files: Iterable[tuple[str, Path | IO[bytes] | None]], resolution: int
) -> tuple[NDArray[np.uint8], dict[int, str]]:
    """Images (n, R, R, 3) of named files; one that cannot be read is white and has "name: reason" under its place."""
    images, unreadable = [np.empty((0, resolution, resolution, 3), np.uint8)], {}
    for place, (name, file) in enumerate(files):
        try:
            images.append(decode(file, resolution)[None])
        except UnreadableImageError as error:
            images.append(np.full((1, resolution, resolution, 3), 255, np.uint8))
            unreadable[place] = f"{name}: {error}"
    return np.concatenate(images), unreadable


def decode(file: Path | IO[bytes] | None, resolution: int) -> NDArray[np.uint8]:
    """(R, R, 3): upright, over white where it is transparent, the first frame, the center square, averaged down.

    Anything that stands in the way, an absent file (None) or more than twice `PIL.Image.MAX_IMAGE_PIXELS` among it, is
    an :class:`UnreadableImageError`.
    """
    if file is None:
        raise UnreadableImageError("there is no image")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd metadata and large images, a line for each of a million files
        try:
            with Image.open(file) as image:
                image.draft(None, 2 * (DRAFT * resolution,))
                return square(image, resolution)
        except UnidentifiedImageError:
            raise UnreadableImageError("its format is not known") from None
        except Exception as error:  # Pillow raises nearly anything on a damaged file
            raise UnreadableImageError(str(error) or type(error).__name__) from None


def square(image: Image.Image, resolution: int) -> NDArray[np.uint8]:
    """(R, R, 3) of an open image, which is turned upright in place; see :func:`decode`. ValueError where the range of
    its values is not known.
    """
    ImageOps.exif_transpose(image, in_place=True)
    return _square(_over_white(_eight_bit(image)), resolution)


def _eight_bit(image: Image.Image) -> Image.Image:
    """Gray of 16 or 32 bits as gray of 8; Pillow itself would cut off all values above 255.

    TIFF of 32 bits does not say what white is: 255 if no value is larger (an array saved as it was), or else 65535.
    """
    if image.mode == "F":
        raise ValueError("it holds floating-point numbers, whose range is not known")
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("its values do not fit into 16 bits")
    if image.mode == "I" and image.format == "TIFF" and values.max() <= 255:
        return Image.fromarray(values.astype(np.uint8))
    return Image.fromarray(np.rint(values / 257).astype(np.uint8))


def _over_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _square(image: Image.Image, resolution: int) -> NDArray[np.uint8]:
    """The center square at the resolution: averaged down, or interpolated if it has to grow."""
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    # A plain box takes pixels whole, which dislocates edges wherever the ratio is no integer.
    method = Image.Resampling.HAMMING if side >= resolution else Image.Resampling.BICUBIC
    box = (left, top, left + side, top + side)
    return np.asarray(image.resize((resolution, resolution), method, box))
