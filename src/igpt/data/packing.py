"""Packing a source: in parallel processes, in shards, so that a killed packing goes on where it was."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from igpt.cluster.child_processes import Spawn
from igpt.data.duplicates import shared_images
from igpt.data.packed import ARRAYS, FORMAT, MANIFEST, array_file, packed_folder, read_manifest
from igpt.data.sources import SPLITS, Chunk, ImageSource, at_resolution
from igpt.data.verified import mark_verified, verify
from igpt.errors import IgptError
from igpt.files import atomic_path, sha256, write_names
from igpt.progress import Progress

log = logging.getLogger(__name__)

SHARD = 2048  # images that a process reads and writes at once
WORTH_A_PROCESS = 4  # shards; with fewer, starting it takes longer than it saves
UNREADABLE = "unreadable.txt"
JOURNAL = "journal"  # the folder that remembers what is done until all is

Rows = Mapping[str, Sequence[int]]  # some rows of each split


@dataclass(frozen=True)
class Shard:
    """Neighboring images of a split: the unit of work, and of what a kill can cost."""

    split: str
    start: int
    stop: int

    def journal(self, folder: Path) -> Path:
        """The file that says that this shard is on disk, and which of its images could not be read."""
        return folder / JOURNAL / f"{self.split}-{self.start}.json"


def pack(
    source: ImageSource,
    cache_dir: Path,
    processes: int | None = None,
    max_unreadable: float = 0.01,
    drop_equal_at: int | None = None,
) -> Path:
    """Write the source's splits below `cache_dir`, unless they are there; return their folder, its checksums verified.

    The folder appears complete or not at all, and of several programs one does the work while the others wait. A
    complete folder needs no lock: it may be somebody else's. `processes` is the number of processes that read images,
    by default one per CPU core. Images that cannot be read are left out and listed in the folder's unreadable.txt; if
    their share exceeds `max_unreadable`, that is an :class:`IgptError`.

    Images that equal one of a split further from training (train, validation, test) are counted. With `drop_equal_at`,
    those that are equal at this resolution are left out; if it is not the source's own, the same images have to be
    packed at that resolution before.
    """
    folder = packed_folder(source, cache_dir, drop_equal_at)
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                _make(source, folder, processes, max_unreadable, drop_equal_at)
    verify(folder)
    return folder


def _make(
    source: ImageSource, folder: Path, processes: int | None, max_unreadable: float, drop_equal_at: int | None
) -> None:
    """What :func:`pack` does if the folder is not there."""
    unfinished = folder.with_name(f"{folder.name}.part")
    try:
        sizes = _allocate(source, unfinished)
        _read_shards(source, unfinished, sizes, processes)
        unreadable = _unreadable(unfinished, sizes, max_unreadable)
        shared = _shared(source, unfinished, unreadable, drop_equal_at)
        _leave_out(unfinished, sizes, unreadable, shared if drop_equal_at else {})
        _write_manifest(source, unfinished, shared)
    except BrokenProcessPool:
        raise IgptError(
            f"A process that packs {source.name} was killed, by a lack of memory perhaps; run the command "
            "again, which resumes from here, or with a smaller data.processes."
        ) from None
    except IgptError:
        shutil.rmtree(unfinished, ignore_errors=True)  # what is wrong with the data may be mended
        raise
    unfinished.rename(folder)
    shutil.rmtree(folder / JOURNAL)
    mark_verified(folder)


def available_cores() -> int:
    """CPU cores this process may use, which on a shared machine are fewer than it has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _allocate(source: ImageSource, folder: Path) -> dict[str, int]:
    """Empty arrays of the right size for all splits, unless an earlier packing made them; the sizes of the splits."""
    sizes = source.sizes()
    for split in SPLITS:
        if sizes[split] == 0:
            raise IgptError(f"The data '{source.name}' has no {split} images; give it some, or a share of the others.")
    ready = folder / JOURNAL / "allocated"
    if not ready.exists():
        shutil.rmtree(folder, ignore_errors=True)
        (folder / JOURNAL).mkdir(parents=True)
        for split, n in sizes.items():
            shape = (n, source.resolution, source.resolution, 3)
            np.lib.format.open_memmap(array_file(folder, split, "images"), "w+", np.uint8, shape)
            for what in ("labels", "groups"):
                np.lib.format.open_memmap(array_file(folder, split, what), "w+", np.int64, (n,))
        ready.touch()
    return sizes


def _read_shards(source: ImageSource, folder: Path, sizes: dict[str, int], processes: int | None) -> None:
    """Fill the arrays with what no earlier packing has filled in yet."""
    shards = [Shard(s, start, min(start + SHARD, sizes[s])) for s in SPLITS for start in range(0, sizes[s], SHARD)]
    todo = [shard for shard in shards if not shard.journal(folder).exists()]
    processes = min(processes or available_cores(), len(todo) // WORTH_A_PROCESS)
    found = sum(sizes.values()) - sum(shard.stop - shard.start for shard in todo)
    with Progress(f"Packing {source.name}", sum(sizes.values()), found) as progress:
        if processes <= 1:
            for shard in todo:
                progress.advance(_read_shard(source, folder, shard))
            return
        with ProcessPoolExecutor(processes, Spawn(), _start_process, (source, folder)) as pool:
            try:
                for n in pool.map(_read_shard_here, todo):
                    progress.advance(n)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise


# What a packing process works on, sent once: a source may carry a list of all its files.
_here: tuple[ImageSource, Path]


def _start_process(source: ImageSource, folder: Path) -> None:
    global _here
    _here = source, folder


def _read_shard_here(shard: Shard) -> int:
    return _read_shard(*_here, shard)


def _read_shard(source: ImageSource, folder: Path, shard: Shard) -> int:
    """Read one shard and write it to its place; return its size."""
    chunk = source.read(shard.split, shard.start, shard.stop)
    expected = shard.stop - shard.start
    if len(chunk.images) != expected or len(chunk.labels) != expected:
        raise IgptError(
            f"{source.name} promised images {shard.start} to {shard.stop} in its {shard.split} split and gave "
            f"{len(chunk.images)} of them."
        )
    _write_rows(array_file(folder, shard.split, "images"), shard.start, chunk.images)
    _write_rows(array_file(folder, shard.split, "labels"), shard.start, chunk.labels)
    _write_rows(array_file(folder, shard.split, "groups"), shard.start, _numbered_groups(chunk, shard))
    with atomic_path(shard.journal(folder)) as temporary:
        temporary.write_text(json.dumps({shard.start + place: why for place, why in chunk.unreadable.items()}))
    return expected


def _numbered_groups(chunk: Chunk, shard: Shard) -> NDArray[np.int64]:
    """Groups of a shard's images; one that stands alone gets a negative number that no other image has."""
    alone = -1 - np.arange(shard.start, shard.stop)
    return alone if chunk.groups is None else np.where(chunk.groups < 0, alone, chunk.groups)


def _write_rows(path: Path, start: int, rows: NDArray[Any]) -> None:
    """Rows to their place in a .npy file. Through a file and not a memory map: on a full disk that is an error, where
    writing to a map would kill the process.
    """
    array = np.load(path, mmap_mode="r")
    with open(path, "r+b") as file:
        file.seek(array.offset + start * array[:1].nbytes)
        file.write(np.ascontiguousarray(rows, array.dtype).data)
        file.flush()
        os.fsync(file.fileno())


def _unreadable(folder: Path, sizes: dict[str, int], max_share: float) -> Rows:
    """The rows that could not be read, after a report about them."""
    found: dict[str, dict[int, str]] = {split: {} for split in SPLITS}
    for path in sorted((folder / JOURNAL).glob("*.json")):
        split = path.stem.rsplit("-", 1)[0]
        found[split].update({int(place): why for place, why in json.loads(path.read_text()).items()})
    lines = [why for split in SPLITS for _, why in sorted(found[split].items())]
    if lines:
        _report_unreadable(folder, lines, sum(sizes.values()), max_share)
    return {split: sorted(rows) for split, rows in found.items()}


def _report_unreadable(folder: Path, lines: Sequence[str], total: int, max_share: float) -> None:
    """List the images that cannot be read; too many of them are an error, and the packing is then undone."""
    write_names(folder / UNREADABLE, lines)
    if len(lines) <= max_share * total:
        report = folder.with_suffix("") / UNREADABLE
        log.warning("%d of %d images cannot be read and are left out; they are listed in %s", len(lines), total, report)
        return
    raise IgptError(
        f"{len(lines)} of {total} images cannot be read, more than data.max_unreadable={max_share} allows; all are "
        f"listed in {_keep_report(folder)}, the first is {lines[0]}."
    )


def _keep_report(folder: Path) -> Path:
    """A copy of the report about unreadable images that outlives a packing that is refused."""
    return Path(shutil.copy(folder / UNREADABLE, folder.with_suffix(f".{UNREADABLE}")))


def _shared(source: ImageSource, folder: Path, unreadable: Rows, drop_equal_at: int | None) -> Rows:
    """The rows of images that equal one of a split further from training, after a line about them in the log."""
    remembered = folder / JOURNAL / "shared"  # a packing that was killed may have dropped some of them already
    if not remembered.exists():
        with atomic_path(remembered) as temporary:
            temporary.write_text(json.dumps(_find_shared(source, folder, unreadable, drop_equal_at)))
    shared: Rows = json.loads(remembered.read_text())
    if any(shared.values()):
        advice = "they are left out" if drop_equal_at else "data.drop_duplicates=true leaves them out"
        log.warning(
            "%s: at %dx%d, %d images of the training split equal a held-out one, and %d of validation a test one; %s.",
            source.name, *2 * (drop_equal_at or source.resolution,), len(shared["train"]), len(shared["validation"]),
            advice,
        )  # fmt: skip
    return shared


def _find_shared(source: ImageSource, folder: Path, unreadable: Rows, drop_equal_at: int | None) -> Rows:
    if drop_equal_at and drop_equal_at != source.resolution:  # the same images are told apart where the model sees them
        as_seen = at_resolution(source, drop_equal_at)
        return dict(read_manifest(packed_folder(as_seen, folder.parents[1], drop_equal_at))["shared"])
    images = {split: np.load(array_file(folder, split, "images"), mmap_mode="r") for split in SPLITS}
    return shared_images(images, unreadable, full_train=getattr(source, "full_train", False))


def _leave_out(folder: Path, sizes: dict[str, int], unreadable: Rows, dropped: Rows) -> None:
    """Close the gaps that these images leave in the arrays."""
    for split in SPLITS:
        keep = np.delete(np.arange(sizes[split]), sorted({*unreadable.get(split, ()), *dropped.get(split, ())}))
        if len(keep) == 0:
            reasons = [f"cannot be read (see {_keep_report(folder)})"] if unreadable[split] else []
            reasons += ["data.drop_duplicates=true drops"] if dropped.get(split) else []
            raise IgptError(f"No {split} image is left without those that {' or that '.join(reasons)}.")
        for what in ARRAYS:
            _keep_rows(array_file(folder, split, what), keep)


def _keep_rows(path: Path, rows: NDArray[np.int64]) -> None:
    """Rewrite a .npy file with only these rows, a shard at a time, unless it has no others."""
    array = np.load(path, mmap_mode="r")
    if len(array) == len(rows):
        return
    with atomic_path(path) as temporary:
        np.lib.format.open_memmap(temporary, "w+", array.dtype, (len(rows), *array.shape[1:]))
        for start in range(0, len(rows), SHARD):
            _write_rows(temporary, start, array[rows[start : start + SHARD]])


def _write_manifest(source: ImageSource, folder: Path, shared: Rows) -> None:
    """What is in the folder, a checksum of each file (SHA-256), and which rows of the source stand in two splits."""
    arrays: Sequence[Path] = [array_file(folder, split, what) for split in SPLITS for what in ARRAYS]
    files = {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in arrays}
    shapes = {split: np.load(array_file(folder, split, "images"), mmap_mode="r").shape for split in SPLITS}
    about = {"format": FORMAT, "source": source.key(), "classes": source.classes, "shapes": shapes}
    manifest = {**about, "files": files, "shared": shared}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2))
