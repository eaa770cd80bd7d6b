"""Palettes of 50,000 images by weighted k-means over all distinct colors, compared with faiss and scikit-learn; tables
of nearest colors; conversion of pixels to tokens by such a table, by a distance matrix, and by Hugging Face's function.

python benchmarks/palette.py
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import faiss
import numpy as np
import torch
from photos import crops
from sklearn.cluster import KMeans, MiniBatchKMeans
from table import write_table
from threadpoolctl import threadpool_limits
from transformers.models.imagegpt.image_processing_pil_imagegpt import color_quantize

from igpt.tokenizers import Palette
from igpt.tokenizers.histogram import color_codes, count_colors
from igpt.tokenizers.kmeans import PaletteRecipe, weighted_kmeans, weighted_psnr
from igpt.tokenizers.nearest import nearest_table

SIZE = 512
SAMPLE = 1_000_000  # pixels for scikit-learn


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def exact(images: np.ndarray) -> Palette:
    """All pixels, in chunks, as the data module reads them."""
    return PaletteRecipe(SIZE).build(lambda: np.array_split(images, len(images) // 4000 + 1), "photos")


def sampled(images: np.ndarray) -> Palette:
    """The default of faiss: 256 random pixels per centroid, random initialization."""
    kmeans = faiss.Kmeans(3, SIZE, niter=50, seed=0)
    kmeans.train(images.reshape(-1, 3).astype(np.float32))
    return Palette(kmeans.centroids.clip(0, 255))


def mini_batches(images: np.ndarray) -> Palette:
    """The defaults of scikit-learn on a random sample, since all pixels take minutes."""
    pixels = images.reshape(-1, 3)
    sample = pixels[np.random.default_rng(0).integers(0, len(pixels), SAMPLE)].astype(np.float32)
    kmeans = MiniBatchKMeans(SIZE, random_state=0, compute_labels=False).fit(sample)
    return Palette(kmeans.cluster_centers_.clip(0, 255))


def compare_palettes(images: np.ndarray) -> None:
    colors, counts = count_colors([images])
    builders = {
        "weighted k-means++ over all distinct colors": exact,
        "faiss default, 256 sampled pixels per centroid": sampled,
        f"scikit-learn MiniBatchKMeans, {SAMPLE:,} random pixels": mini_batches,
    }
    rows = []
    for name, build in builders.items():
        seconds, palette = timed(lambda build=build: build(images))
        psnr = weighted_psnr(palette, colors, counts)
        error = 3 * 255**2 / 10 ** (psnr / 10)
        rows.append(
            {
                "palette": name,
                "seconds": round(seconds, 2),
                "squared error per pixel": round(error, 2),
                "PSNR, dB": round(psnr, 2),
            }
        )
    notes = f"{len(images):,} crops of photographs, {images[..., 0].size / 1e6:.1f} million pixels, {len(colors):,} "
    write_table("palette", f"Building a palette of {SIZE} colors", rows, notes + f"colors; faiss {faiss.__version__}.")


def compare_tokens(images: np.ndarray) -> None:
    """On one core; the slow ways get fewer images."""
    palette = exact(images[:2000])
    tensor, centroids = torch.from_numpy(images), torch.tensor(palette.centroids)
    methods: dict[str, tuple[int, Callable[[int], torch.Tensor]]] = {
        "igpt: table of 2^24 entries": (2000, lambda n: palette.encode(tensor[:n])),
        "distance matrix": (
            40, lambda n: torch.cdist(tensor[:n].reshape(-1, 3).float(), centroids).argmin(dim=1).view(n, -1)
        ),
        "transformers: color_quantize": (
            40, lambda n: torch.from_numpy(color_quantize(images[:n].reshape(-1, 3), palette.centroids)).view(n, -1)
        ),
    }  # fmt: skip
    palette.encode(tensor[:1])  # builds the table
    expected, rows = palette.encode(tensor[:40]), []
    with threadpool_limits(1):
        torch.set_num_threads(1)
        for name, (n, encode) in methods.items():
            seconds = median(timed(lambda n=n, encode=encode: encode(n))[0] for _ in range(5))
            equal = (encode(40) == expected).double().mean().item()
            speed = n * expected.shape[1] / seconds / 1e6
            rows.append(
                {"method": name, "million pixels per second": round(speed, 2), "equal tokens, %": round(100 * equal, 2)}
            )
    write_table("tokens", "From pixels to tokens, on one core", rows, f"{SIZE} colors, medians of 5 repetitions.")


def compare_with_ten_starts(images: np.ndarray) -> None:
    """The mean squared error of three seeds, compared with the best of ten clusterings by scikit-learn."""
    colors, counts = count_colors([images])
    points, rows = colors.astype(np.float32), []
    for k in (32, 128, 512):
        seconds, ours = timed(lambda k=k: [weighted_kmeans(points, counts, k, 50, seed) for seed in range(3)])
        their_seconds, theirs = timed(
            lambda k=k: KMeans(k, n_init=10, random_state=0).fit(points, sample_weight=counts)
        )
        error, best = (
            np.mean([10 ** (-weighted_psnr(Palette(c.clip(0, 255)), colors, counts) / 10) for c in centroids])
            for centroids in (ours, [theirs.cluster_centers_])
        )
        rows.append(
            {
                "colors": k,
                "squared error relative to scikit-learn": round(error / best, 4),
                "seconds": round(seconds / 3, 2),
                "seconds of scikit-learn": round(their_seconds, 2),
            }
        )
    notes = f"{len(images):,} crops of photographs, {len(colors):,} distinct colors; mean of three seeds."
    write_table("kmeans", "k-means, compared with the best of ten initializations by scikit-learn", rows, notes)


def squared_error(centroids: np.ndarray, colors: np.ndarray, counts: np.ndarray) -> float:
    nearest = nearest_table(centroids)[color_codes(colors)]
    return float(((centroids[nearest] - colors) ** 2).sum(axis=1) @ counts / counts.sum())


def time_tables(photos: Palette) -> None:
    """Processor time, which does not depend on other processes.

    The last two palettes are a worst case that k-means cannot produce: they are finer than the 256 levels.
    """
    rng = np.random.default_rng(0)
    palettes = {
        "photos": photos.centroids,
        "random, 512": rng.uniform(0, 255, (512, 3)),
        "random, 4096": rng.uniform(0, 255, (4096, 3)),
        "dark (0 to 32), 512": rng.uniform(0, 32, (512, 3)),
        "dark (0 to 32), 4096": rng.uniform(0, 32, (4096, 3)),
        "grays, 512": np.linspace(0, 255, 512)[:, None].repeat(3, axis=1),
        "near grays, 4096": (rng.uniform(0, 255, (4096, 1)) + rng.normal(0, 3, (4096, 3))).clip(0, 255),
        "grays, 4096": np.linspace(0, 255, 4096)[:, None].repeat(3, axis=1),
        "grays from 110 to 140, 4096": np.linspace(110, 140, 4096)[:, None].repeat(3, axis=1),
    }
    rows = []
    with threadpool_limits(1):
        for name, centroids in palettes.items():
            start = time.process_time()
            nearest_table(centroids)
            rows.append({"palette": name, "seconds": round(time.process_time() - start, 2)})
    write_table(
        "nearest", "Tables of the nearest palette color of all 2^24 colors, on one core", rows, "Equal to brute force."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50_000, help="number of crops")
    images = crops(parser.parse_args().images)
    compare_palettes(images)
    compare_with_ten_starts(images[:300])
    time_tables(exact(images[:2000]))
    compare_tokens(images)


if __name__ == "__main__":
    main()
