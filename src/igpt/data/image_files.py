"""Image files of any kind as square uint8 arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from igpt.errors import IgptError


def expand(paths: Sequence[str]) -> list[Path]:
    """The files that `paths` name; a folder stands for its files, by name."""
    files: list[Path] = []
    for path in (Path(p).expanduser() for p in paths):
        if not path.exists():
            raise IgptError(f"There is no image at {path}.")
        files += sorted(f for f in path.iterdir() if f.is_file()) if path.is_dir() else [path]
    return files


def read_image(path: Path, resolution: int) -> NDArray[np.uint8]:
    """(R, R, 3): upright, over white where it is transparent, the centre square, averaged down."""
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file).convert("RGBA")
    except (UnidentifiedImageError, OSError) as error:
        raise IgptError(f"{path} is not an image that can be read ({error}).") from None
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return np.asarray(ImageOps.fit(image, (resolution, resolution), Image.Resampling.BOX))
