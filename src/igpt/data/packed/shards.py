"""Reading a source in shards, by several processes, into arrays on disk.

Each finished shard is noted in a journal, so that packing resumes after the last one when it was killed.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from igpt.cluster.child_processes import Spawn
from igpt.data.packed.arrays import append_rows, create_array, create_growing_array, finish_growing_array, write_rows
from igpt.data.packed.layout import array_file
from igpt.data.sources import SPLITS, Chunk, ImageSource, WholePhotos
from igpt.errors import IgptError
from igpt.files import atomic_path
from igpt.progress import Progress

SHARD_SIZE = 2048  # images that a process reads and writes at once
SHARDS_PER_PROCESS = 4  # with fewer, starting a process takes longer than it saves
JOURNAL = "journal"  # folder that is deleted when packing is complete


@dataclass(frozen=True)
class Shard:
    """Neighboring images of a split: the unit of work."""

    split: str
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def journal_file(self, folder: Path) -> Path:
        """The file that exists once this shard is on disk."""
        return folder / JOURNAL / f"{self.split}-{self.start}.json"


def create_arrays(source: ImageSource, folder: Path) -> dict[str, int]:
    """Create the arrays of all splits, unless an earlier attempt did; return the sizes of the splits."""
    sizes = source.sizes()
    for split in SPLITS:
        if sizes[split] == 0:
            raise IgptError(f"The data '{source.name}' has no {split} images; give it some, or a share of the others.")
    created = folder / JOURNAL / "created"
    if not created.exists():
        shutil.rmtree(folder, ignore_errors=True)
        (folder / JOURNAL).mkdir(parents=True)
        for split, n in sizes.items():
            images, side = array_file(folder, split, "images"), source.resolution
            if isinstance(source, WholePhotos):
                create_growing_array(images, np.uint8, (side, 3))
                create_array(array_file(folder, split, "places"), np.int64, (n, 3))
            else:
                create_array(images, np.uint8, (n, side, side, 3))
            create_array(array_file(folder, split, "labels"), np.int64, (n,))
            create_array(array_file(folder, split, "groups"), np.int64, (n,))
        created.touch()
    return sizes


def read_shards(source: ImageSource, folder: Path, sizes: dict[str, int], processes: int | None) -> None:
    """Read all shards that the journal lacks, in at most so many processes (None: one per CPU core)."""
    missing = [shard for shard in _shards(sizes) if not shard.journal_file(folder).exists()]
    processes = min(processes or available_cores(), len(missing) // SHARDS_PER_PROCESS)
    total = sum(sizes.values())
    with Progress(f"Packing {source.name}", total, total - sum(map(len, missing))) as progress:
        if processes <= 1:
            for shard in missing:
                progress.advance(read_shard(source, folder, shard))
            return
        with ProcessPoolExecutor(processes, Spawn(), _start_worker, (source, folder)) as pool:
            try:
                for n in pool.map(_read_in_worker, missing):
                    progress.advance(n)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise


def _shards(sizes: dict[str, int]) -> list[Shard]:
    return [
        Shard(split, start, min(start + SHARD_SIZE, sizes[split]))
        for split in SPLITS
        for start in range(0, sizes[split], SHARD_SIZE)
    ]


def available_cores() -> int:
    """CPU cores that this process may use; on a shared machine, fewer than it has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# Each worker gets the source once and not with every shard, since a source may hold a list of a million files.
_worker_arguments: tuple[ImageSource, Path]


def _start_worker(source: ImageSource, folder: Path) -> None:
    global _worker_arguments
    _worker_arguments = source, folder


def _read_in_worker(shard: Shard) -> int:
    return read_shard(*_worker_arguments, shard)


def read_shard(source: ImageSource, folder: Path, shard: Shard) -> int:
    """Read one shard, write it to its place in the arrays, and note it in the journal; return its size."""
    chunk = source.read(shard.split, shard.start, shard.stop)
    if len(chunk.images) != len(shard) or len(chunk.labels) != len(shard):
        raise IgptError(
            f"The source {source.name} read {len(chunk.images)} images and {len(chunk.labels)} labels for images "
            f"{shard.start} to {shard.stop} of its {shard.split} split; correct its method read."
        )
    images = array_file(folder, shard.split, "images")
    if isinstance(source, WholePhotos):
        places = _append_photos(images, list(chunk.images), folder / JOURNAL / f"{shard.split}.lock")
        write_rows(array_file(folder, shard.split, "places"), shard.start, places)
    else:
        write_rows(images, shard.start, np.asarray(chunk.images))
    write_rows(array_file(folder, shard.split, "labels"), shard.start, chunk.labels)
    write_rows(array_file(folder, shard.split, "groups"), shard.start, _unique_groups(chunk, shard))
    with atomic_path(shard.journal_file(folder)) as temporary:
        unreadable = {shard.start + position: reason for position, reason in chunk.unreadable.items()}
        temporary.write_text(json.dumps(unreadable))
    return len(shard)


def _append_photos(path: Path, photos: Sequence[NDArray[np.uint8]], lock: Path) -> NDArray[np.int64]:
    """Append photos (H, W, 3) to the rows in the file, transposed if they are wide; return their places (n, 3)."""
    transposed = [photo.shape[1] > photo.shape[0] for photo in photos]
    upright = [photo.swapaxes(0, 1) if wide else photo for photo, wide in zip(photos, transposed, strict=True)]
    lengths = np.array([len(photo) for photo in upright])
    first = append_rows(path, np.concatenate(upright), lock)
    return np.stack([first + np.cumsum(lengths) - lengths, lengths, transposed], axis=1)


def finish_arrays(source: ImageSource, folder: Path) -> None:
    """Complete the files of whole photos, once all shards are read."""
    if isinstance(source, WholePhotos):
        for split in SPLITS:
            finish_growing_array(array_file(folder, split, "images"))


def _unique_groups(chunk: Chunk, shard: Shard) -> NDArray[np.int64]:
    """Groups (n,) of the images of a shard; an image without a group gets a negative number that no other image has."""
    alone = -1 - np.arange(shard.start, shard.stop)
    return alone if chunk.groups is None else np.where(chunk.groups < 0, alone, chunk.groups)


def unreadable_images(folder: Path, sizes: dict[str, int]) -> dict[str, dict[int, str]]:
    """The rows of each split that could not be read, with the file and the reason."""
    found: dict[str, dict[int, str]] = {split: {} for split in SPLITS}
    for shard in _shards(sizes):
        rows = json.loads(shard.journal_file(folder).read_text())
        found[shard.split].update({int(row): reason for row, reason in rows.items()})
    return found
