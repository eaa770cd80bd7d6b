"""Peak memory of the probes of all layers, by the number of images: stored features, and features that are not stored.

python benchmarks/probe_memory.py
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from table import write_table
from torch import Tensor

from igpt.batch import ImageBatch
from igpt.data.datamodule import ImageDataModule
from igpt.data.packed import PackedImages
from igpt.data.sources import SPLITS
from igpt.evaluation.features import FeatureKind, stored_features
from igpt.evaluation.probe_scores import ProbeSettings, labeled_features, linear_rows
from igpt.evaluation.stream_probe import Processes, StreamProbe

LAYERS, WIDTH, CLASSES = 13, 128, 10
SIZES = (10_000, 200_000)
NOTES = (
    f"{LAYERS} layers of {WIDTH} channels, {CLASSES} classes; one epoch of SGD for nine rates, or L-BFGS for one "
    "penalty. Synthetic images, whose features are a random map of their pixels. Memory beyond that after the imports, "
    "on one thread. Pages of mapped files count, although the kernel may drop them."
)


class Source:
    """What the data module asks for."""

    classes = tuple("0123456789")
    resolution = 4


class Synthetic(ImageDataModule):
    """n training images, and 1,000 in each other split; they are views of one image of noise."""

    def __init__(self, n: int) -> None:
        noise = np.random.default_rng(0).integers(256, size=n + 48, dtype=np.uint8)
        views = np.lib.stride_tricks.as_strided(noise, (n, 4, 4, 3), (1, 12, 3, 1))
        labels = (noise[:n] // 26).astype(np.int64)
        numbers = np.arange(n)
        sizes = {split: n if split == "train" else 1000 for split in SPLITS}
        self.splits = {s: PackedImages(views[:m], labels[:m], numbers[:m]) for s, m in sizes.items()}
        self.source, self.seed, self.num_workers, self.eval_batch_size = Source(), 0, 0, 256  # type: ignore[assignment]
        self.trainer = None


def features() -> FeatureKind:
    maps = torch.randn(LAYERS, 48, WIDTH, generator=torch.Generator().manual_seed(0))

    def pooled(batch: ImageBatch) -> Tensor:
        return torch.tanh((batch.images.flatten(1).float() / 128 - 1) @ maps)

    return FeatureKind("maps", (LAYERS, WIDTH), pooled)


def peak_memory() -> float:
    """The peak of this process's memory, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith("VmHWM"))


def measure(solver: str, n: int) -> None:
    """Print the added peak memory in MB, the seconds, and the test accuracy of the last layer."""
    torch.set_num_threads(1)
    data, kind, before, start = Synthetic(n), features(), peak_memory(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        if solver == "stream":
            settings = ProbeSettings(solver="stream", epochs=1)
            processes = Processes(Fabric(accelerator="cpu"), torch.device("cpu"))
            probes = StreamProbe([kind], data, settings, processes, Path(folder, "stream.pt"), "key")
            probes.fit()
            accuracy = probes.correct("test")["maps"].mean(axis=2)[-1].max()
        else:
            stored = {split: stored_features(kind, data, split, Path(folder, f"{split}.npy")) for split in SPLITS}
            labeled = labeled_features(kind.name, stored, data.splits, Source.classes)
            rows = linear_rows(labeled, ProbeSettings(penalties=(1e-3,)), torch.device("cpu"))
            accuracy = rows[-1]["test_accuracy"]
    print(peak_memory() - before, time.perf_counter() - start, accuracy)


def rows() -> Iterator[dict[str, str | int | float]]:
    for solver in ("stream", "lbfgs"):
        for n in SIZES:
            result = subprocess.run(
                [sys.executable, __file__, solver, str(n)], capture_output=True, text=True, check=True
            )
            memory, seconds, accuracy = map(float, result.stdout.split())
            yield {
                "solver": solver,
                "images": n,
                "added peak memory, MB": round(memory),
                "features of all layers, MB": round(4 * LAYERS * WIDTH * n / 1e6),
                "seconds": round(seconds, 1),
                "test accuracy, last layer": round(accuracy, 3),
            }


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measure(sys.argv[1], int(sys.argv[2]))
    else:
        write_table("probe_memory", "Peak memory of probes by the number of images", list(rows()), NOTES)
