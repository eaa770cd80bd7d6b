"""Random crops of whole photos against random crops of their center squares: batches, views and tokens per second.

python benchmarks/photo_windows.py
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from table import write_table
from torch.utils.data import DataLoader

from igpt.data.augment import ImageNetCrop, resize_crops
from igpt.data.packed import PackedImages, PackedPhotos
from igpt.data.photo_windows import PhotoWindows
from igpt.data.stream import Share, TrainingStream

STORED, RESOLUTION, BATCH, REPETITIONS = 64, 32, 128, 9
LONGER = STORED * 4 // 3  # of a usual photo


def random_bytes(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """A memory-mapped array on disk."""
    array = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    rng = np.random.default_rng(0)
    for start in range(0, len(array), 4096):
        array[start : start + 4096] = rng.integers(0, 256, array[start : start + 4096].shape, np.uint8)
    array.flush()
    return np.load(path, mmap_mode="r")


def rate(split: PackedImages | PhotoWindows, batches: int, workers: int, views: bool) -> float:
    """Images per second that a data loader yields or, with `views`, that are resized from them on the CPU."""
    augment = ImageNetCrop(RESOLUTION)
    loader = DataLoader(TrainingStream(split, Share(BATCH), seed=0), batch_size=None, num_workers=workers)
    iterator = iter(loader)
    next(iterator)  # starts the workers
    start = time.perf_counter()
    for batch in itertools.islice(iterator, batches):
        if views and batch.crops is not None:
            resize_crops(batch.images, RESOLUTION, batch.crops)
        elif views:
            augment(batch.images, 0, batch.epochs, batch.indices)
    return batches * BATCH / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50_000, help="stored images of each kind")
    n = parser.parse_args().images
    torch.set_num_threads(1)
    numbers = np.zeros(n, np.int64)
    places = np.stack([np.arange(n) * LONGER, np.full(n, LONGER), np.arange(n) % 2], axis=1)
    with tempfile.TemporaryDirectory() as folder:
        squares = PackedImages(random_bytes(Path(folder, "s.npy"), (n, STORED, STORED, 3)), numbers, numbers)
        rows = random_bytes(Path(folder, "w.npy"), (n * LONGER, STORED, 3))
        photos = PhotoWindows(PackedPhotos(rows, places, numbers, numbers), ImageNetCrop(RESOLUTION), seed=0)
        settings = {
            "batches, in the main process": (400, 0, False),
            "batches, by one worker": (400, 1, False),
            "batches and views on the CPU": (20, 0, True),
        }
        table = []
        for name, setting in settings.items():
            pairs = [(rate(squares, *setting), rate(photos, *setting)) for _ in range(REPETITIONS)]
            table.append(
                {
                    "images per second of": name,
                    "squares": round(median(square for square, _ in pairs)),
                    "whole photos": round(median(whole for _, whole in pairs)),
                    "ratio": round(median(whole / square for square, whole in pairs), 2),
                }
            )
    write_table(
        "photo_windows",
        f"Crops of whole photos and of center squares, stored at {STORED} pixels",
        table,
        f"Medians of {REPETITIONS} alternating repetitions; {n:,} memory-mapped images of each kind; photos of "
        f"{STORED}x{LONGER}, half of them wide; batches of {BATCH}; views of {RESOLUTION}x{RESOLUTION}; one thread. "
        "The ratio is the median of the ratios of neighboring measurements.",
    )


if __name__ == "__main__":
    main()
