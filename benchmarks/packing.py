"""Time and memory from image files to the first batch of tokens: packing, palette and loader.

python benchmarks/packing.py
"""

from __future__ import annotations

import argparse
import resource
import tarfile
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from io import BytesIO
from pathlib import Path
from pickle import dumps

import numpy as np
import torch
from photos import SIDE, crops
from PIL import Image
from table import write_table

from igpt.data.cached_palette import cached_palette
from igpt.data.datamodule import ImageDataModule
from igpt.data.sources import CIFAR10Source, ImageFolderSource, ImageSource
from igpt.tokenizers.kmeans import PaletteRecipe


def write_cifar(images: np.ndarray, root: Path) -> None:
    """Write the images in the archive format of CIFAR-10: five training parts and a small test part."""
    parts = {f"data_batch_{i + 1}": part for i, part in enumerate(np.array_split(images, 5))}
    with tarfile.open(root / "cifar-10-python.tar.gz", "w:gz", compresslevel=1) as archive:
        for name, part in {**parts, "test_batch": images[:100]}.items():
            rows = part.transpose(0, 3, 1, 2).reshape(len(part), -1)
            content = dumps({b"data": rows, b"labels": [i % 10 for i in range(len(part))]}, protocol=3)
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            archive.addfile(member, BytesIO(content))


def write_folder(images: np.ndarray, root: Path) -> None:
    """Write the images as PNG files in ten class folders."""
    for label in range(10):
        (root / "photos" / str(label)).mkdir(parents=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(root / "photos" / str(i % 10) / f"{i:05}.png", compress_level=1)


def first_batch(source: ImageSource, cache: str) -> dict[str, float | str]:
    """Seconds until the data are packed, the palette is built, and the first batch of tokens exists; peak memory.

    It must run in a process of its own, since memory is measured per process.
    """
    data = ImageDataModule(source, batch_size=128, cache_dir=cache)
    start = time.perf_counter()
    data.prepare_data()
    data.setup()
    data.tokenizer = cached_palette(PaletteRecipe(512), data)
    ready = time.perf_counter()
    batch = data.tokenize(next(iter(data.train_dataloader())))
    end = time.perf_counter()
    assert batch.tokens.shape == (128, SIDE * SIDE)
    parts = {who: resource.getrusage(who).ru_maxrss / 2**10 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)}
    return {
        "packing and palette, s": round(ready - start, 1),
        "first batch, s": round(end - ready, 1),
        "total, s": round(end - start, 1),
        "peak memory, MB": round(parts[resource.RUSAGE_SELF]),
        "peak memory of a packing process, MB": round(parts[resource.RUSAGE_CHILDREN]),
        "PSNR, dB": round(data.tokenizer.info["psnr_db"], 2),  # type: ignore[attr-defined]
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[12_500, 50_000], help="numbers of images")
    counts = parser.parse_args().images
    torch.set_num_threads(2)
    sources: dict[str, tuple[Callable[[np.ndarray, Path], None], Callable[[Path], ImageSource]]] = {
        "CIFAR-10 archive": (write_cifar, lambda root: CIFAR10Source(root=str(root))),
        "folder of PNG files": (write_folder, lambda root: ImageFolderSource(path=str(root / "photos"))),
    }
    images = crops(max(counts))
    rows = []
    for name, (write, source) in sources.items():
        for n in counts:
            with tempfile.TemporaryDirectory() as folder:
                write(images[:n], Path(folder))
                with ProcessPoolExecutor(1) as process:
                    measured = process.submit(first_batch, source(Path(folder)), f"{folder}/cache").result()
            rows.append({"source": name, "images": n, **measured})
    write_table(
        "packing",
        "From image files to the first batch of tokens",
        rows,
        "Crops of two photographs at 32x32, 512 colors, 128 images per batch. Everything but packing runs in one "
        "process, whose memory includes torch.",
    )


if __name__ == "__main__":
    main()
