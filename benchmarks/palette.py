"""Palettes: weighted k-means over all distinct colours against faiss's sampled default; tokens by table against a
distance matrix.

python benchmarks/palette.py
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import faiss
import numpy as np
import torch
from table import write_table

from igpt.data.sources import EmojiSource
from igpt.tokenizers import Palette
from igpt.tokenizers.histogram import count_colours
from igpt.tokenizers.kmeans import PaletteRecipe, weighted_psnr

SIZE = 512


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def sampled(pixels: np.ndarray) -> Palette:
    """What faiss does by itself: 256 random pixels a centroid, random start."""
    kmeans = faiss.Kmeans(3, SIZE, niter=50, seed=0)
    kmeans.train(pixels.reshape(-1, 3).astype(np.float32))
    return Palette(kmeans.centroids.clip(0, 255))


def by_distance_matrix(pixels: torch.Tensor, palette: Palette) -> torch.Tensor:
    """Nearest centre through all pixels x k distances."""
    return torch.cdist(pixels.reshape(-1, 3).float(), torch.tensor(palette.centroids)).argmin(dim=1)


def main() -> None:
    source = EmojiSource(32)
    images = np.concatenate([source.read(split, 0, n).images for split, n in source.sizes().items()])
    data = f"{images[..., 0].size / 1e6:.2f} million pixels of emoji, {SIZE} colours"

    colours, counts = count_colours([images])
    exact_seconds, exact = timed(lambda: PaletteRecipe(SIZE).build(lambda: [images], "emoji"))
    builders = {
        "weighted k-means++ over all distinct colours": (exact_seconds, exact),
        "faiss's default, 256 sampled pixels a centre": timed(lambda: sampled(images)),
    }
    rows = [
        {"palette": name, "seconds": round(seconds, 2), "PSNR, dB": round(weighted_psnr(palette, colours, counts), 2)}
        for name, (seconds, palette) in builders.items()
    ]
    write_table("palette", "Building a palette", rows, f"{data}; faiss {faiss.__version__}.")

    tensor = torch.from_numpy(images)
    exact.encode(tensor[:1])  # the table exists
    table_seconds, _ = timed(lambda: exact.encode(tensor))
    some = tensor[:200]
    matrix_seconds, _ = timed(lambda: by_distance_matrix(some, exact))
    speeds = {
        "table of 2^24 entries": tensor[..., 0].numel() / table_seconds / 1e6,
        "distance matrix": some[..., 0].numel() / matrix_seconds / 1e6,
    }
    rows = [{"tokens": name, "million pixels a second": round(speed, 2)} for name, speed in speeds.items()]
    write_table("tokens", "Pixels into tokens", rows, f"{data}.")


if __name__ == "__main__":
    main()
