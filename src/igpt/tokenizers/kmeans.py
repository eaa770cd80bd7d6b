"""Palette building: k-means over all pixels of a data set, as weighted k-means over its distinct colours."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from igpt.errors import IgptError
from igpt.tokenizers.histogram import colour_codes, count_colours
from igpt.tokenizers.palette import MAX_SIZE, Palette

STARTING_POINTS, STARTING_ITERATIONS = 256, 10  # points a centroid of the first, rough clustering


@dataclass(frozen=True)
class PaletteRecipe:
    """How to get a palette: build one with `size` colours (the paper: 512), or read the file at `path`.

    Clustering pixels weighted by how often a colour occurs gives the same objective as clustering every pixel, at
    the cost of the distinct colours alone.
    """

    size: int = 512
    iterations: int = 50
    seed: int = 0
    path: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.size <= MAX_SIZE:
            raise IgptError(f"tokenizer.size is {self.size}; a palette has 1 to {MAX_SIZE} colours.")

    def key(self) -> dict[str, Any]:
        """What a built palette depends on besides the data; the key of its cache entry."""
        return {"size": self.size, "iterations": self.iterations, "seed": self.seed, "start": STARTING_ITERATIONS}

    def build(self, chunks: Callable[[], Iterable[NDArray[np.uint8]]], source: str) -> Palette:
        """The palette of the pixels (..., 3) in `chunks()`; `source` names the data in the palette's info.

        Raises :class:`IgptError` when there are fewer distinct colours than `size`.
        """
        if self.path is not None:
            return Palette.load(Path(self.path))
        colours, counts = count_colours(chunks())
        if self.size > len(colours):
            raise IgptError(
                f"A palette of {self.size} colours cannot be built from {source}: it has {len(colours)} distinct "
                f"colours; set tokenizer.size to {len(colours)} or less."
            )
        centroids = weighted_kmeans(colours.astype(np.float32), counts, self.size, self.iterations, self.seed)
        palette = Palette(centroids)
        psnr = weighted_psnr(palette, colours, counts)
        info = {"source": source, "psnr_db": round(psnr, 4), "distinct_colours": len(colours), **self.key()}
        return Palette(centroids, {**info, "pixels": int(counts.sum())})


def weighted_kmeans(
    points: NDArray[np.float32], weights: NDArray[np.int64], k: int, iterations: int, seed: int
) -> NDArray[np.float32]:
    """Centroids (k, 3) of points (n, 3) with weights (n,): faiss, on its GPU when it has one.

    faiss's k-means++ does not look at weights, so the start comes from points drawn in proportion to them.
    """
    start = points
    if len(points) > STARTING_POINTS * k:
        drawn = np.random.default_rng(seed).choice(len(points), STARTING_POINTS * k, p=weights / weights.sum())
        start = points[drawn]
    centroids = _faiss_kmeans(start, None, k, STARTING_ITERATIONS, seed, None)
    return _faiss_kmeans(points, weights.astype(np.float32), k, iterations, seed, centroids).clip(0, 255)


def _faiss_kmeans(
    points: NDArray[np.float32],
    weights: NDArray[np.float32] | None,
    k: int,
    iterations: int,
    seed: int,
    start: NDArray[np.float32] | None,
) -> NDArray[np.float32]:
    """Centroids after some iterations from `start`, or from what k-means++ chooses."""
    try:
        import faiss
    except ImportError:
        raise IgptError(
            "Building a palette needs faiss, which is not installed: pip install 'igpt[cpu]' (or 'igpt[gpu]' on a "
            "machine with CUDA), or set tokenizer.path to a palette file."
        ) from None
    kmeans = faiss.Kmeans(
        d=points.shape[1],
        k=k,
        niter=iterations,
        seed=seed,
        gpu=hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0,
        min_points_per_centroid=1,
        max_points_per_centroid=len(points),  # never sample
    )
    kmeans.cp.init_method = faiss.ClusteringInitMethod_KMEANS_PLUS_PLUS
    kmeans.train(points, weights=weights, init_centroids=start)
    return np.asarray(kmeans.centroids)


def weighted_psnr(palette: Palette, colours: NDArray[np.uint8], counts: NDArray[np.int64]) -> float:
    """Peak signal-to-noise ratio in dB of the quantised pixels, whose colours (n, 3) occur `counts` (n,) times."""
    quantised = palette.colours[palette.table[colour_codes(colours)]]
    squared = ((quantised.astype(np.float64) - colours) ** 2).mean(axis=1)
    mean = float((squared * counts).sum() / counts.sum())
    return math.inf if mean == 0 else 10 * math.log10(255**2 / mean)
