"""The order of the samples: each batch is a pure function of the seed and the index of the batch."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from igpt.batch import ImageBatch
from igpt.data.packed import PackedImages
from igpt.data.photo_windows import PhotoWindows


@functools.lru_cache(maxsize=2)
def epoch_order(n: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The permutation (n,) in which an epoch visits n samples."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(n)


def samples_at(positions: NDArray[np.int64], n: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices and epochs, (k,) each, of the samples at `positions` (k,) in the infinite sequence of epochs."""
    epochs, offsets = np.divmod(positions, n)
    index = np.empty_like(positions)
    for epoch in np.unique(epochs):
        chosen = epochs == epoch
        index[chosen] = epoch_order(n, seed, int(epoch))[offsets[chosen]]
    return index, epochs


@dataclass(frozen=True)
class Share:
    """The part of one process in each global batch of `batch_size` samples, over all processes and micro-batches."""

    batch_size: int
    rank: int = 0
    world_size: int = 1
    accumulate: int = 1

    @property
    def micro_batch(self) -> int:
        """Samples per process and forward pass."""
        return self.batch_size // (self.world_size * self.accumulate)

    def positions(self, micro_step: int) -> NDArray[np.int64]:
        """Positions (micro_batch,) in the stream of this process's micro-batch `micro_step`, counted from 0."""
        step, part = divmod(micro_step, self.accumulate)
        first = step * self.batch_size + (part * self.world_size + self.rank) * self.micro_batch
        return np.arange(first, first + self.micro_batch)


class TrainingStream(IterableDataset[ImageBatch]):
    """Infinite batches of a training split, or of its samples `chosen` (n,), beginning with micro-step `start`.

    Data workers take turns, so the batches do not depend on their number.
    """

    def __init__(
        self,
        split: PackedImages | PhotoWindows,
        share: Share,
        seed: int,
        start: int = 0,
        chosen: NDArray[np.int64] | None = None,
    ) -> None:
        self.split, self.share, self.seed, self.start = split, share, seed, start
        self.chosen = np.arange(len(split)) if chosen is None else chosen

    def __iter__(self) -> Iterator[ImageBatch]:
        worker = get_worker_info()
        micro_step, stride = self.start, 1
        if worker is not None:
            micro_step, stride = micro_step + worker.id, worker.num_workers
        while True:
            index, epoch = samples_at(self.share.positions(micro_step), len(self.chosen), self.seed)
            yield fetch(self.split, self.chosen[index], epoch)
            micro_step += stride

    def after(self, n: int) -> Iterator[ImageBatch]:
        """The batches after the first n."""
        return iter(TrainingStream(self.split, self.share, self.seed, self.start + n, self.chosen))


class EvaluationBatches(Dataset[ImageBatch]):
    """One pass over a split, in its own order or in `order`; each process takes every `world_size`-th sample.

    The batches of a process have equal sizes, up to one sample, of at most `batch_size`. All processes have the same
    number of batches, since those that share one model gather its weights together for each. So none of them is empty,
    unless there are fewer samples than batches of all processes.
    """

    def __init__(
        self,
        split: PackedImages,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        order: NDArray[np.int64] | None = None,
    ) -> None:
        self.split = split
        indices = np.arange(len(split)) if order is None else order
        n_batches = -(-len(indices) // (world_size * batch_size))
        self.batches = np.array_split(indices[rank::world_size], n_batches) if n_batches else []

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, batch: int) -> ImageBatch:
        if not 0 <= batch < len(self):
            raise IndexError(batch)
        index = self.batches[batch]
        return fetch(self.split, index, np.zeros_like(index))

    def after(self, n: int) -> Iterator[ImageBatch]:
        """The batches after the first n."""
        return (self[batch] for batch in range(n, len(self)))


def fetch(split: PackedImages | PhotoWindows, index: NDArray[np.int64], epoch: NDArray[np.int64]) -> ImageBatch:
    """A batch (B,) by one indexing operation per array."""
    if isinstance(split, PhotoWindows):
        return split.fetch(index, epoch)
    arrays = (split.images[index], split.labels[index], index, epoch)
    images, labels, indices, epochs = (torch.from_numpy(np.ascontiguousarray(a)) for a in arrays)
    return ImageBatch(images, labels, indices, epochs)
