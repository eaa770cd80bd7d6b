"""Packing a source: reading all its images once, and writing them to the cache as arrays."""

from __future__ import annotations

import logging
import shutil
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
from filelock import FileLock

from igpt.data.packed.arrays import keep_rows
from igpt.data.packed.checksums import mark_verified, verify_checksums
from igpt.data.packed.duplicates import source_duplicates
from igpt.data.packed.layout import Rows, array_file, arrays_of, packed_folder, write_manifest
from igpt.data.packed.shards import JOURNAL, create_arrays, finish_arrays, read_shards, unreadable_images
from igpt.data.packed.unreadable import keep_report, report_unreadable
from igpt.data.sources import SPLITS, ImageSource, WholePhotos
from igpt.errors import IgptError

log = logging.getLogger(__name__)


def pack(
    source: ImageSource,
    cache_dir: Path,
    processes: int | None = None,
    max_unreadable: float = 0.01,
    drop_duplicates_at: int | None = None,
) -> Path:
    """Write the splits of a source below `cache_dir`, unless they exist; return their folder, its checksums verified.

    The folder appears complete or not at all. Of several programs, one packs while the others wait. A complete folder
    is read without a lock, since it may belong to another user. `processes` is the number of processes that read
    images, by default one per CPU core. Images that cannot be read are left out and listed in the folder's
    unreadable.txt; if their share exceeds `max_unreadable`, that is an :class:`IgptError`.

    Training images that equal a validation or test image, and validation images that equal a test image, are counted.
    With `drop_duplicates_at`, those that are equal at this resolution are left out. If it is not the source's own
    resolution, the source must have been packed at that resolution before.
    """
    folder = packed_folder(source, cache_dir, drop_duplicates_at)
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                _pack(source, folder, processes, max_unreadable, drop_duplicates_at)
    verify_checksums(folder)
    return folder


def _pack(
    source: ImageSource, folder: Path, processes: int | None, max_unreadable: float, drop_duplicates_at: int | None
) -> None:
    """Write the folder, which does not exist yet, under another name, and rename it when it is complete."""
    unfinished = folder.with_name(f"{folder.name}.part")
    try:
        sizes = create_arrays(source, unfinished)
        read_shards(source, unfinished, sizes, processes)
        finish_arrays(source, unfinished)
        found = unreadable_images(unfinished, sizes)
        report_unreadable(unfinished, found, sum(sizes.values()), max_unreadable)
        unreadable = {split: list(rows) for split, rows in found.items()}
        duplicates = source_duplicates(source, unfinished, unreadable, drop_duplicates_at)
        _remove(source, unfinished, sizes, unreadable, duplicates if drop_duplicates_at else {})
        write_manifest(source, unfinished, duplicates)
    except BrokenProcessPool:
        raise IgptError(
            f"A process that packs {source.name} was killed, perhaps for lack of memory; run the command again, which "
            "resumes from here, or with a smaller data.processes."
        ) from None
    except IgptError:
        shutil.rmtree(unfinished, ignore_errors=True)  # the user may correct the data, so nothing of them is reused
        raise
    unfinished.rename(folder)
    shutil.rmtree(folder / JOURNAL)
    mark_verified(folder)
    size = sum(path.stat().st_size for path in folder.iterdir())
    log.info("Packed %s: %s images, %.1f MB in %s", source.name, f"{sum(sizes.values()):,}", size / 1e6, folder)


def _remove(source: ImageSource, folder: Path, sizes: dict[str, int], unreadable: Rows, dropped: Rows) -> None:
    """Remove these images from the arrays; of whole photos, only the places, since others may follow in the file."""
    arrays = [array for array in arrays_of(source) if array != "images" or not isinstance(source, WholePhotos)]
    for split in SPLITS:
        removed = {*unreadable[split], *dropped.get(split, ())}
        keep = np.delete(np.arange(sizes[split]), sorted(removed))
        if len(keep) == 0:
            reasons = [f"cannot be read (see {keep_report(folder)})"] if unreadable[split] else []
            reasons += ["data.drop_duplicates=true drops"] if dropped.get(split) else []
            raise IgptError(f"No {split} image is left without those that {' or that '.join(reasons)}.")
        for array in arrays:
            keep_rows(array_file(folder, split, array), keep)
