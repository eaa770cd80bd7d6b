"""The LightningDataModule: it packs images, and loads batches of tokens."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from igpt.batch import ImageBatch, TokenBatch, n_micro_batches
from igpt.data.augment import Augmentation, Identity, ImageNetCrop, resize_crops
from igpt.data.loader import BatchLoader
from igpt.data.packed import PackedImages, open_packed, open_photos, pack, packed_folder
from igpt.data.packed.layout import read_manifest
from igpt.data.photo_windows import PhotoWindows
from igpt.data.sources import ImageSource, PhotoSource, WholePhotos, at_resolution
from igpt.data.stream import EvaluationBatches, Share, TrainingStream, epoch_order, samples_at
from igpt.errors import IgptError
from igpt.files import expand_user
from igpt.progress import track
from igpt.tokenizers import Tokenizer

Transformed = Callable[[Tensor, Tensor, Tensor, int], Tensor]  # of images (B, R, R, 3), epochs, indices (B,), step


@contextmanager
def cache_errors(cache_dir: Path) -> Iterator[None]:
    """Turn an OSError into an :class:`IgptError` that names the cache, or a file elsewhere, such as one of the data."""
    try:
        yield
    except OSError as error:
        if error.filename is not None and not Path(os.fsdecode(error.filename)).is_relative_to(cache_dir):
            raise IgptError(
                f"{error.filename} cannot be used ({error.strerror}); check the path, its permissions and the disk."
            ) from None
        raise IgptError(
            f"The cache at {cache_dir} cannot be written ({error}); set IGPT_CACHE or data.cache_dir."
        ) from None


class ImageDataModule(pl.LightningDataModule):
    """Batches of tokens from a source of images.

    The `tokenizer` may be set later, since a palette may have to be built from these images; `transformed`, too, which
    is the task's (:meth:`igpt.objectives.tasks.Task.transformed`). `batch_size` is the number
    of images per optimizer step, over all processes and accumulated micro-batches; a device processes at most
    `device_batch_size` of them at once. Images are copied to the device as uint8; there they are augmented (in
    training) and converted to tokens.

    With `stored_resolution`, training images are also packed at that resolution, from which `augment` makes images at
    the resolution of the model. They are packed as squares; only photos that :class:`ImageNetCrop` crops are packed
    whole. With `drop_duplicates`, training images that equal a validation or test image at the
    resolution of the model are left out, and validation images that equal a test image, too.
    """

    def __init__(
        self,
        source: ImageSource,
        batch_size: int,
        cache_dir: str,
        eval_batch_size: int = 128,
        device_batch_size: int | None = None,
        augment: Augmentation | None = None,
        stored_resolution: int | None = None,
        num_workers: int = 0,
        processes: int | None = None,
        max_unreadable: float = 0.01,
        drop_duplicates: bool = False,
        seed: int = 0,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        super().__init__()
        self.source = source
        self.cache_dir = expand_user(cache_dir)
        self.batch_size = batch_size
        self.device_batch_size = device_batch_size
        self.eval_batch_size = eval_batch_size
        self.augment = augment or Identity()
        self.stored_resolution = stored_resolution or source.resolution
        self._check_resolutions()
        self.num_workers = num_workers
        self.processes = processes
        self.max_unreadable = max_unreadable
        self.drop_duplicates_at = source.resolution if drop_duplicates else None
        self.seed = seed
        self.transformed: Transformed = lambda images, epochs, indices, step: images  # that of a task may be set later
        self.splits: dict[str, PackedImages] = {}
        self._tokenizer = tokenizer

    def _check_resolutions(self) -> None:
        """Raise an error unless `augment` makes images at the resolution of the model."""
        stored = self.stored_resolution
        result, expected = self.augment.output_resolution(stored), self.source.resolution
        if result != expected:
            raise IgptError(
                f"data.augment makes images of {result}x{result} from stored ones of {stored}x{stored}, but "
                f"data.source.resolution is {expected}; set data.stored_resolution or data.augment so that they agree."
            )

    @functools.cached_property
    def training_source(self) -> ImageSource:
        """The source of the packed training images, at their resolution."""
        source = self.source
        if self.stored_resolution != source.resolution:
            source = at_resolution(source, self.stored_resolution)
        if isinstance(self.augment, ImageNetCrop) and isinstance(source, PhotoSource):
            return WholePhotos(source)
        return source

    def key(self) -> dict[str, Any]:
        """Everything that the images of the splits depend on."""
        return {**self.source.key(), "drop_duplicates_at": self.drop_duplicates_at}

    @property
    def tokenizer(self) -> Tokenizer:
        """The conversion of images to tokens."""
        if self._tokenizer is None:
            raise RuntimeError("the data module has no tokenizer yet")
        return self._tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def describe(self) -> str:
        """One line for the log: images of each split, classes, resolution, tokens and origin."""
        sizes = ", ".join(f"{len(images):,} {split}" for split, images in self.splits.items())
        classes = f"{len(self.source.classes)} classes" if self.source.classes else "no classes"
        side = self.source.resolution
        duplicates = read_manifest(self._folder(self.source))["duplicates"]["train"]
        note = ""
        if duplicates and not self.drop_duplicates_at:
            note = f" {len(duplicates)} training images equal a validation or test image."
        return (
            f"Data {self.source.name} ({self.source.origin}): {sizes} images; {classes}; {side}x{side} pixels, "
            f"{self.n_tokens} tokens per image.{note}"
        )

    @property
    def n_tokens(self) -> int:
        """Number of tokens per image."""
        return self.tokenizer.n_tokens(self.source.resolution)

    # Once per machine

    def prepare_data(self) -> None:
        """Pack the images, unless the cache has them."""
        with cache_errors(self.cache_dir):
            self._pack(self.source)
            self._pack(self.training_source)

    def _pack(self, source: ImageSource) -> None:
        pack(source, self.cache_dir, self.processes, self.max_unreadable, self.drop_duplicates_at)

    # In every process

    def setup(self, stage: str | None = None) -> None:
        """Open the packed splits."""
        if not self.splits:
            self.splits = self._open(self.source)

    def _open(self, source: ImageSource) -> dict[str, PackedImages]:
        return open_packed(self._folder(source))

    def packed_folders(self) -> list[Path]:
        """The folders of the packed data: one, or two if training images are stored at another resolution."""
        return list(dict.fromkeys(self._folder(source) for source in (self.source, self.training_source)))

    def _folder(self, source: ImageSource) -> Path:
        return packed_folder(source, self.cache_dir, self.drop_duplicates_at)

    def check_batch_size(self) -> None:
        """Raise an error if a batch has more images than the training split."""
        n = len(self.splits["train"])
        if self.batch_size > n:
            raise IgptError(
                f"data.batch_size is {self.batch_size}, but {self.source.name} has only {n} training images; choose a "
                "smaller batch."
            )

    def train_dataloader(self) -> BatchLoader:
        """Infinite batches, beginning with the current step of the trainer."""
        rank, world_size, step = 0, 1, 0
        if self.trainer:
            rank, world_size, step = self.trainer.global_rank, self.trainer.world_size, self.trainer.global_step
        share = Share(self.batch_size, rank, world_size, self.accumulation(world_size))
        return self._loader(TrainingStream(self._training_images(), share, self.seed, step * share.accumulate))

    def _training_images(self) -> PackedImages | PhotoWindows:
        source = self.training_source
        if isinstance(source, WholePhotos) and isinstance(self.augment, ImageNetCrop):
            return PhotoWindows(open_photos(self._folder(source))["train"], self.augment, self.seed)
        return self._open(source)["train"]

    def samples_of(self, step: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Indices and epochs, (batch_size,) each, of the training images of a step, counted from 0."""
        return samples_at(Share(self.batch_size).positions(step), len(self._training_images()), self.seed)

    def labeled_stream(self, share: Share, start: int, augment: bool, device: torch.device) -> Iterator[ImageBatch]:
        """Infinite batches, on `device`, of the training images that have a label, from step `start`.

        Each epoch visits all of these images. Without `augment`, they are the same in each epoch.
        """
        train = self._training_images() if augment else self.splits["train"]
        labeled = np.flatnonzero(train.labels >= 0)
        for batch in self._loader(TrainingStream(train, share, self.seed, start, labeled)):
            here: ImageBatch = self.transfer_batch_to_device(batch, device, 0)
            yield self.augmented(here) if augment else here

    def n_labeled(self, split: str) -> int:
        """The number of images of a split that have a label."""
        return int((self.splits[split].labels >= 0).sum())

    def accumulation(self, world_size: int) -> int:
        """Micro-batches per optimizer step: the fewest of equal size that `device_batch_size` allows."""
        share, remainder = divmod(self.batch_size, world_size)
        if remainder:
            raise IgptError(
                f"data.batch_size={self.batch_size} cannot be divided evenly among {world_size} processes; choose a "
                f"multiple of {world_size}, or other trainer.devices."
            )
        return n_micro_batches(share, self.device_batch_size)

    def val_dataloader(self) -> BatchLoader:
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return self._loader(EvaluationBatches(self.splits["validation"], self.eval_batch_size, rank, world_size))

    def token_batches(self, split: str, epoch: int | None = None, activity: str = "Reading") -> Iterator[TokenBatch]:
        """One pass over a split as tokens on the CPU, in its own order or in that of a training `epoch`.

        `activity` is shown with the progress, as in "Evaluating the test split".
        """
        images = self.splits[split]
        order = None if epoch is None else epoch_order(len(images), self.seed, epoch)
        loader = self._loader(EvaluationBatches(images, self.eval_batch_size, order=order))
        return map(self.tokenize, track(loader, f"{activity} the {split} split"))

    def labeled_images(
        self, split: str, rank: int = 0, world_size: int = 1, activity: str = "Reading"
    ) -> Iterator[ImageBatch]:
        """One pass over the images of a split that have a label, of which each process takes every world_size-th."""
        images = self.splits[split]
        labeled = np.flatnonzero(images.labels >= 0)
        batches = EvaluationBatches(images, self.eval_batch_size, rank, world_size, labeled)
        return track(self._loader(batches), f"{activity} the {split} split")

    def labeled_batches(self, split: str, epoch: int | None = None, activity: str = "Reading") -> Iterator[TokenBatch]:
        """The same as :meth:`token_batches`, without the images that have no label (-1)."""
        for batch in self.token_batches(split, epoch, activity):
            labeled = batch.labels >= 0
            if labeled.any():
                yield TokenBatch(*(values[labeled] for values in batch))

    @property
    def trains_on_validation(self) -> bool:
        """Whether validation images are training images, too, so that nothing may be selected by them."""
        return bool(getattr(self.source, "full_train", False))

    def _loader(self, dataset: TrainingStream | EvaluationBatches) -> BatchLoader:
        on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return BatchLoader(dataset, self.num_workers, pin_memory=on_gpu)

    # On the device

    def on_after_batch_transfer(self, batch: ImageBatch, dataloader_idx: int) -> TokenBatch:
        """Convert images to tokens on the device; training images are augmented, and then transformed, first."""
        if self.trainer is not None and self.trainer.training:
            batch = self.augmented(batch)
            step = self.trainer.global_step
            batch = batch._replace(images=self.transformed(batch.images, batch.epochs, batch.indices, step))
        return self.tokenize(batch)

    def tokenize(self, batch: ImageBatch) -> TokenBatch:
        """Convert a batch of images to tokens, on whichever device it is."""
        return TokenBatch(self.tokenizer.encode(batch.images), batch.labels, batch.indices, batch.epochs)

    def augmented(self, batch: ImageBatch) -> ImageBatch:
        """The batch with a random view of each image, on whichever device it is."""
        if batch.crops is None:
            views = self.augment(batch.images, self.seed, batch.epochs, batch.indices)
        else:
            views = resize_crops(batch.images, self.source.resolution, batch.crops)
        return batch._replace(images=views, crops=None)
