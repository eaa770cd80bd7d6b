"""Palettes: weighted k-means over all distinct colours against faiss's sampled default; tokens by table against a
distance matrix. Prints a Markdown table.

python benchmarks/palette.py
"""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Callable
from typing import Any

import faiss
import numpy as np
import torch

from igpt.data.sources import SPLITS, EmojiSource
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
    images = np.concatenate([next(EmojiSource(32).chunks(split))[0] for split in SPLITS])
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    print(
        f"{platform.platform()}, {os.cpu_count()} CPUs; torch {torch.__version__}, faiss {faiss.__version__}; {commit}"
    )
    print(f"\n{images[..., 0].size / 1e6:.2f} million pixels of emoji, {SIZE} colours\n")

    colours, counts = count_colours([images])
    print("| palette | seconds | PSNR, dB |\n| :-- | --: | --: |")
    exact_seconds, exact = timed(lambda: PaletteRecipe(SIZE).build(lambda: [images], "emoji"))
    for name, (seconds, palette) in {
        "weighted k-means++ over all distinct colours": (exact_seconds, exact),
        "faiss's default, 256 sampled pixels a centre": timed(lambda: sampled(images)),
    }.items():
        print(f"| {name} | {seconds:.2f} | {weighted_psnr(palette, colours, counts):.2f} |")

    tensor = torch.from_numpy(images)
    exact.encode(tensor[:1])  # the table exists
    table_seconds, _ = timed(lambda: exact.encode(tensor))
    some = tensor[:200]
    matrix_seconds, _ = timed(lambda: by_distance_matrix(some, exact))
    print("\n| tokens | million pixels a second |\n| :-- | --: |")
    print(f"| table of 2^24 entries | {images[..., 0].size / table_seconds / 1e6:.1f} |")
    print(f"| distance matrix | {some[..., 0].numel() / matrix_seconds / 1e6:.2f} |")


if __name__ == "__main__":
    main()
