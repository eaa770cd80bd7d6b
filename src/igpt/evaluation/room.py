"""Whether the features of all layers fit on the disk, and those of one layer into memory."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from igpt.data.datamodule import ImageDataModule
from igpt.errors import IgptError
from igpt.evaluation.features import FeatureKind
from igpt.evaluation.linear_probe import curvature_pays
from igpt.evaluation.probe_scores import ProbeSettings

FLOAT = 4  # bytes
COPIES = 3  # of a layer's features: as stored, standardized, and in between
PARAMETERS = 25  # L-BFGS keeps ten pairs of vectors, and a few more
CURVATURE = 2  # matrices of a class, with their copies


def require_room(
    kinds: Sequence[FeatureKind],
    data: ImageDataModule,
    settings: ProbeSettings,
    files: Sequence[Path],
    device: torch.device,
) -> None:
    """Raise :class:`IgptError` if the features do not fit on the disk, or those of one fit on `device` into memory.

    The first kind are those of the network. The features go to `files`, of which some may be written already.
    """
    n_layers, width = kinds[0].shape
    n_images = sum(data.n_labeled(split) for split in data.splits)
    disk = FLOAT * n_images * sum(kind.shape[0] * kind.shape[1] for kind in kinds)
    widths = [width * (settings.concatenate or 1), *(kind.shape[1] for kind in kinds)]
    memory = max(_memory_of_fit(each, n_images, data, settings) for each in widths)
    free = shutil.disk_usage(next(path for path in files[0].absolute().parents if path.exists())).free
    stored = sum(file.stat().st_size for file in files if file.exists())
    available = available_memory(device)
    if disk > free + stored or memory > available:
        raise IgptError(
            f"The features of {n_layers} layers of {n_images:,} images and of the baselines take {_size(disk)} on "
            f"the disk, and a fit {_size(memory)} of memory, but {_size(free)} and {_size(available)} are free; use "
            "probe.solver=stream, which stores no features."
        )


def _memory_of_fit(width: int, n_images: int, data: ImageDataModule, settings: ProbeSettings) -> int:
    """Bytes that the fit of a layer of so many features takes. A narrow one may need more, if its curvature pays."""
    classes = len(data.source.classes)
    numbers = width * (COPIES * n_images + PARAMETERS * len(settings.penalties) * classes)
    if curvature_pays(data.n_labeled("train"), width, classes):
        numbers += CURVATURE * classes * width**2
    return FLOAT * numbers


def available_memory(device: torch.device) -> int:
    """Bytes that can still be allocated on a device; on the CPU without swapping."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:  # not Linux
        return 2**62
    machine = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    return min(machine, left_in_cgroups(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")))


def left_in_cgroups(membership: Path, root: Path) -> int:
    """Bytes that the cgroups of this process, as of a SLURM job or a container, still allow; 2**62 without a limit."""
    left = 2**62
    lines = membership.read_text().splitlines() if membership.exists() else []
    for _, controllers, name in (line.split(":", 2) for line in lines):
        if controllers == "":  # version 2
            top, files, cache = root, ("memory.max", "memory.current"), "inactive_file"
        elif "memory" in controllers.split(","):  # version 1
            top, cache = root / "memory", "total_inactive_file"
            files = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        group = top / name.lstrip("/")
        for folder in (group, *group.parents):  # the limit of any of them holds
            left = min(left, _left_in(folder, *files, cache))
            if folder == top:
                break
    return left


def _left_in(folder: Path, limit_file: str, usage_file: str, cache: str) -> int:
    """The limit of one cgroup minus its use. Cached files do not count: they make room for what is allocated."""
    try:
        limit, usage = ((folder / name).read_text().strip() for name in (limit_file, usage_file))
        statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except OSError:
        return 2**62
    if limit == "max":
        return 2**62
    return int(limit) - int(usage) + int(statistics.get(cache, 0))


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.3g} GB"
