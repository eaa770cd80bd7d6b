"""Images into tokens: memory-mapped batches and a table look-up, against a DataLoader over single images with Hugging
Face's processor. Both paths run on the same cores, one after the other.

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

SIDE, COLOURS, BATCH, CORES = 32, 512, 100, 2
STORED = 50_000  # images in the packed array, as many as CIFAR has
REPETITIONS = 3
TIMES_MORE = 50  # images for the quicker paths, which would otherwise be over before the clock has moved


class SingleImages(Dataset[Tensor]):
    """Tokens of one image at a time, as Hugging Face's processor makes them."""

    def __init__(self, images: np.ndarray, palette: Palette) -> None:
        self.pictures = [Image.fromarray(image) for image in images]
        self.processor = ImageGPTImageProcessorPil(
            clusters=palette.centroids / 127.5 - 1, size={"height": SIDE, "width": SIDE}
        )

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Tensor:
        return self.processor(self.pictures[index], return_tensors="pt")["input_ids"][0]


def emoji() -> np.ndarray:
    source = EmojiSource(SIDE)
    return source.read("train", 0, source.sizes()["train"]).images


def memory_mapped(images: np.ndarray, folder: Path) -> PackedImages:
    """`STORED` images on disk, the given ones again and again."""
    packed = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, (STORED, SIDE, SIDE, 3))
    packed[:] = np.resize(images, packed.shape)
    packed.flush()
    return PackedImages(np.load(folder / "images.npy", mmap_mode="r"), *np.zeros((2, STORED), np.int64))


def our_tokens(split: PackedImages, palette: Palette, augment: Augmentation, images: int) -> Iterator[Tensor]:
    stream: Iterable[ImageBatch] = DataLoader(TrainingStream(split, Share(BATCH), seed=0), batch_size=None)
    for batch in itertools.islice(stream, images // BATCH):
        yield palette.encode(augment(batch.images, 0, batch.epochs, batch.indices))


def their_tokens(images: np.ndarray, palette: Palette) -> Iterator[Tensor]:
    """Each worker has a core, so that one thread each is the quickest."""
    with threadpool_limits(1):
        yield from DataLoader(SingleImages(images, palette), BATCH, shuffle=True, num_workers=CORES)


def rate(batches: Iterable[Tensor]) -> tuple[float, float]:
    """Images a second, and images a second of work on one core; workers and their start are included."""
    start, work = time.perf_counter(), sum(os.times()[:4])
    images = sum(len(batch) for batch in batches)
    return images / (time.perf_counter() - start), images / (sum(os.times()[:4]) - work)


def agreement(images: np.ndarray, palette: Palette) -> float:
    """Share of the tokens that are equal on both paths."""
    theirs = torch.stack(list(SingleImages(images, palette)))
    return (palette.encode(torch.from_numpy(images)) == theirs).double().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000, help="images through Hugging Face's processor, a pass")
    count = parser.parse_args().images
    if count < BATCH:
        parser.error(f"--images must be at least {BATCH}, which is one batch")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    torch.set_num_threads(CORES)

    pictures = emoji()
    palette = PaletteRecipe(COLOURS).build(lambda: [pictures], "emoji")
    palette.encode(torch.from_numpy(pictures[:1]))  # the table exists
    some = np.resize(pictures, (count, SIDE, SIDE, 3))
    with tempfile.TemporaryDirectory() as folder:
        split = memory_mapped(pictures, Path(folder))
        contenders = {
            "transformers, a processor call an image": lambda: their_tokens(some, palette),
            "igpt": lambda: our_tokens(split, palette, Identity(), TIMES_MORE * count),
            "igpt, padded, cropped and mirrored as for CIFAR": lambda: our_tokens(
                split, palette, PadCropFlip(), TIMES_MORE * count
            ),
        }
        runs: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
        for _ in range(REPETITIONS):
            for name, tokens in contenders.items():
                runs[name].append(rate(tokens()))
    rates = {name: [median(values) for values in zip(*run, strict=True)] for name, run in runs.items()}
    baseline, *_ = rates.values()
    rows = [
        {
            "path": name,
            "images a second": round(by_clock),
            "ratio": round(by_clock / baseline[0], 1),
            "images a core second": round(by_work),
            "ratio of these": round(by_work / baseline[1], 1),
        }
        for name, (by_clock, by_work) in rates.items()
    ]
    write_table(
        "loader",
        "Images of 32 x 32 into tokens of 512 colors, on two cores",
        rows,
        f"Medians of {REPETITIONS} alternating repetitions; transformers {transformers.__version__}, its processor "
        f"for PIL images in {CORES} workers of a torch DataLoader, pictures in memory and of the right size already, "
        f"{count:,} images a pass; igpt reads {TIMES_MORE * count:,} from {STORED:,} in a memory-mapped file. Batches "
        f"of {BATCH}. Core seconds leave out the waiting for whatever else ran on the machine. "
        f"{100 * agreement(pictures[:200], palette):.2f}% of the tokens are equal on both paths.",
    )


if __name__ == "__main__":
    main()
