"""From images to tokens: memory-mapped batches and a lookup table, compared with a DataLoader over single images and
Hugging Face's processor. Both run on the same cores, one after the other.

python benchmarks/loader.py --images 2000
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import median

import numpy as np
import torch
import transformers
from PIL import Image
from table import write_table
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import ImageGPTImageProcessorPil

from igpt.batch import ImageBatch
from igpt.data.augment import Augmentation, Identity, PadCropFlip
from igpt.data.packed import PackedImages
from igpt.data.sources import EmojiSource
from igpt.data.stream import Share, TrainingStream
from igpt.tokenizers import Palette
from igpt.tokenizers.kmeans import PaletteRecipe

SIDE, COLORS, BATCH, CORES = 32, 512, 100, 2
STORED = 50_000  # images in the packed array, as many as CIFAR has
REPETITIONS = 3
FACTOR = 50  # more images for the faster pipelines, whose time would otherwise be too short to measure


class SingleImages(Dataset[Tensor]):
    """Tokens of one image at a time by Hugging Face's processor."""

    def __init__(self, images: np.ndarray, palette: Palette) -> None:
        self.images = [Image.fromarray(image) for image in images]
        self.processor = ImageGPTImageProcessorPil(
            clusters=palette.centroids / 127.5 - 1, size={"height": SIDE, "width": SIDE}
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.processor(self.images[index], return_tensors="pt")["input_ids"][0]


def emoji() -> np.ndarray:
    source = EmojiSource(SIDE)
    return source.read("train", 0, source.sizes()["train"]).images


def memory_mapped(images: np.ndarray, folder: Path) -> PackedImages:
    """`STORED` images on disk, which repeat the given ones."""
    packed = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, (STORED, SIDE, SIDE, 3))
    packed[:] = np.resize(images, packed.shape)
    packed.flush()
    return PackedImages(np.load(folder / "images.npy", mmap_mode="r"), *np.zeros((2, STORED), np.int64))


def our_tokens(split: PackedImages, palette: Palette, augment: Augmentation, images: int) -> Iterator[Tensor]:
    stream: Iterable[ImageBatch] = DataLoader(TrainingStream(split, Share(BATCH), seed=0), batch_size=None)
    for batch in itertools.islice(stream, images // BATCH):
        yield palette.encode(augment(batch.images, 0, batch.epochs, batch.indices))


def their_tokens(images: np.ndarray, palette: Palette) -> Iterator[Tensor]:
    """Each worker has a core of its own, so one thread per worker is the fastest."""
    with threadpool_limits(1):
        yield from DataLoader(SingleImages(images, palette), BATCH, shuffle=True, num_workers=CORES)


def rate(batches: Iterable[Tensor]) -> tuple[float, float]:
    """Images per second, and images per second of processor time, workers and their start included."""
    start, work = time.perf_counter(), sum(os.times()[:4])
    images = sum(len(batch) for batch in batches)
    return images / (time.perf_counter() - start), images / (sum(os.times()[:4]) - work)


def agreement(images: np.ndarray, palette: Palette) -> float:
    """Share of tokens that are equal in both pipelines."""
    theirs = torch.stack(list(SingleImages(images, palette)))
    return (palette.encode(torch.from_numpy(images)) == theirs).double().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000, help="images per pass through Hugging Face's processor")
    count = parser.parse_args().images
    if count < BATCH:
        parser.error(f"--images must be at least {BATCH}, the size of a batch")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    torch.set_num_threads(CORES)

    images = emoji()
    palette = PaletteRecipe(COLORS).build(lambda: [images], "emoji")
    palette.encode(torch.from_numpy(images[:1]))  # builds the table
    some = np.resize(images, (count, SIDE, SIDE, 3))
    with tempfile.TemporaryDirectory() as folder:
        split = memory_mapped(images, Path(folder))
        pipelines = {
            "transformers, one processor call per image": lambda: their_tokens(some, palette),
            "igpt": lambda: our_tokens(split, palette, Identity(), FACTOR * count),
            "igpt, with the augmentation for CIFAR": lambda: our_tokens(split, palette, PadCropFlip(), FACTOR * count),
        }
        runs: dict[str, list[tuple[float, float]]] = {name: [] for name in pipelines}
        for _ in range(REPETITIONS):
            for name, tokens in pipelines.items():
                runs[name].append(rate(tokens()))
    rates = {name: [median(values) for values in zip(*run, strict=True)] for name, run in runs.items()}
    baseline, *_ = rates.values()
    rows = [
        {
            "pipeline": name,
            "images per second": round(per_second),
            "speedup": round(per_second / baseline[0], 1),
            "images per core second": round(per_core_second),
            "speedup per core second": round(per_core_second / baseline[1], 1),
        }
        for name, (per_second, per_core_second) in rates.items()
    ]
    write_table(
        "loader",
        "From images of 32x32 to tokens of 512 colors, on two cores",
        rows,
        f"Medians of {REPETITIONS} alternating repetitions; transformers {transformers.__version__}: its processor "
        f"for PIL images in {CORES} workers of a torch DataLoader, images in memory at the final size, {count:,} "
        f"images per pass; igpt: {FACTOR * count:,} images per pass from a memory-mapped file of {STORED:,}. Batches "
        f"of {BATCH}. Core seconds are processor time, without waiting for other processes. "
        f"{100 * agreement(images[:200], palette):.2f}% of the tokens are equal in both pipelines.",
    )


if __name__ == "__main__":
    main()
