"""The palette of a data set: built once, then read from the cache."""

from __future__ import annotations

import logging

from filelock import FileLock

from igpt.data.datamodule import ImageDataModule, cache_errors
from igpt.data.packed import cache_key
from igpt.progress import track
from igpt.tokenizers import Palette
from igpt.tokenizers.kmeans import PaletteRecipe

log = logging.getLogger(__name__)

PIXELS_PER_CHUNK = 2**22


def cached_palette(recipe: PaletteRecipe, data: ImageDataModule) -> Palette:
    """The palette of the training images, which must be open.

    Of several processes, the first one builds it while the others wait.
    """
    name, resolution = data.source.name, data.source.resolution
    path = data.cache_dir / "palettes" / f"{name}-{recipe.size}-{cache_key(data.key(), recipe.key())}.npz"
    if not path.exists():  # else it may be in a cache that only others can write to, where no lock can be taken
        with cache_errors(data.cache_dir):
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{path}.lock"):
                if not path.exists():
                    images = data.splits["train"].images
                    step = max(1, PIXELS_PER_CHUNK // images[0, ..., 0].size)
                    starts = range(0, len(images), step)
                    palette = recipe.build(
                        lambda: (images[i : i + step] for i in track(starts, "Counting colors")),
                        source=f"{name} at {resolution}x{resolution}",
                    )
                    palette.save(path)
                    psnr = palette.info.get("psnr_db")
                    quality = "all colors of the images" if psnr is None else f"PSNR {psnr:.2f} dB"
                    log.info("Built a palette of %d colors, %s", palette.vocab_size, quality)
    return Palette.load(path)
