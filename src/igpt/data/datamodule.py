"""The LightningDataModule: packs images, and gives batches of tokens."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from igpt.batch import ImageBatch, TokenBatch
from igpt.data.augment import Augmentation, Identity
from igpt.data.loader import BatchLoader
from igpt.data.packed import PackedImages, open_packed, pack, packed_folder
from igpt.data.packed.layout import read_manifest
from igpt.data.sources import ImageSource, at_resolution
from igpt.data.stream import EvaluationBatches, Share, TrainingStream, epoch_order
from igpt.errors import IgptError
from igpt.files import expand_user
from igpt.progress import track
from igpt.tokenizers import Tokenizer


@contextmanager
def cache_errors(cache_dir: Path) -> Iterator[None]:
    """An :class:`IgptError` instead of one of the system, where the cache cannot be written."""
    try:
        yield
    except OSError as error:
        raise IgptError(
            f"The cache at {cache_dir} cannot be written ({error}); set IGPT_CACHE or data.cache_dir."
        ) from None


class ImageDataModule(pl.LightningDataModule):
    """Batches of tokens from a source of images.

    The `tokenizer` may be set later, since a palette may have to be built from these images. `batch_size` is the global
    one: images per optimizer step, over all processes and accumulated micro-batches, of which a device takes at most
    `device_batch_size` at once. Images travel to the device as uint8, and are augmented (in training) and
    become tokens there. With `stored_resolution`, training images are packed at that size as well, for augmentation to
    cut the model's resolution out of them. With `drop_duplicates`, training images that equal a held-out one at the
    model's resolution are left out, and so are validation images that equal a test image.
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
        self.splits: dict[str, PackedImages] = {}
        self._tokenizer = tokenizer

    def _check_resolutions(self) -> None:
        """Augmentation must make the model's resolution from the stored one."""
        stored = self.stored_resolution
        found, wanted = self.augment.output_resolution(stored), self.source.resolution
        if found != wanted:
            raise IgptError(
                f"data.augment makes images of {found}x{found} from stored ones of {stored}x{stored}, but "
                f"data.source.resolution is {wanted}; set data.stored_resolution or data.augment so that they agree."
            )

    @functools.cached_property
    def stored(self) -> ImageSource:
        """The source as training images are packed."""
        same = self.stored_resolution == self.source.resolution
        return self.source if same else at_resolution(self.source, self.stored_resolution)

    def key(self) -> dict[str, Any]:
        """Everything that the images of the splits depend on."""
        return {**self.source.key(), "drop_duplicates_at": self.drop_duplicates_at}

    @property
    def tokenizer(self) -> Tokenizer:
        """What makes tokens of the images."""
        if self._tokenizer is None:
            raise RuntimeError("this data module was given no tokenizer yet")
        return self._tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def describe(self) -> str:
        """Images of each split, classes, resolution, tokens and origin, in one line for people."""
        sizes = ", ".join(f"{len(images):,} {split}" for split, images in self.splits.items())
        classes = f"{len(self.source.classes)} classes" if self.source.classes else "no classes"
        side, duplicates = self.source.resolution, read_manifest(self._folder(self.source))["duplicates"]["train"]
        note = ""
        if duplicates and not self.drop_duplicates_at:
            note = f" {len(duplicates)} training images equal a validation or test image."
        return (
            f"Data {self.source.name} ({self.source.origin}): {sizes} images; {classes}; {side}x{side} pixels, "
            f"{self.n_tokens} tokens per image.{note}"
        )

    @property
    def n_tokens(self) -> int:
        """Tokens of one image."""
        return self.tokenizer.n_tokens(self.source.resolution)

    # Making: once a machine, whichever process comes first

    def prepare_data(self) -> None:
        """Pack the images, unless they are in the cache already."""
        with cache_errors(self.cache_dir):
            self._pack(self.source)
            self._pack(self.stored)

    def _pack(self, source: ImageSource) -> None:
        pack(source, self.cache_dir, self.processes, self.max_unreadable, self.drop_duplicates_at)

    # Opening: in every process

    def setup(self, stage: str | None = None) -> None:
        """Open the packed splits."""
        if not self.splits:
            self.splits = self._open(self.source)

    def _open(self, source: ImageSource) -> dict[str, PackedImages]:
        return open_packed(self._folder(source))

    def _folder(self, source: ImageSource) -> Path:
        return packed_folder(source, self.cache_dir, self.drop_duplicates_at)

    def check_batch_size(self) -> None:
        """Refuse a batch of more images than there are to train on."""
        n = len(self.splits["train"])
        if self.batch_size > n:
            raise IgptError(
                f"data.batch_size is {self.batch_size}, but {self.source.name} has only {n} training images; choose a "
                "smaller batch."
            )

    def train_dataloader(self) -> BatchLoader:
        """Batches without end, starting where the trainer's step counter stands."""
        train = self._open(self.stored)["train"]
        rank, world_size, step = 0, 1, 0
        if self.trainer:
            rank, world_size, step = self.trainer.global_rank, self.trainer.world_size, self.trainer.global_step
        share = Share(self.batch_size, rank, world_size, self.accumulation(world_size))
        return self._loader(TrainingStream(train, share, self.seed, step * share.accumulate))

    def accumulation(self, world_size: int) -> int:
        """Micro-batches an optimizer step: as few as `device_batch_size` allows, all of the same size."""
        each, rest = divmod(self.batch_size, world_size)
        if rest:
            raise IgptError(
                f"data.batch_size={self.batch_size} cannot be shared evenly by {world_size} processes; choose a "
                f"multiple of {world_size}, or other trainer.devices."
            )
        return next(n for n in range(1, each + 1) if each % n == 0 and each // n <= (self.device_batch_size or each))

    def val_dataloader(self) -> BatchLoader:
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return self._loader(EvaluationBatches(self.splits["validation"], self.eval_batch_size, rank, world_size))

    def token_batches(self, split: str, epoch: int | None = None, doing: str = "Reading") -> Iterator[TokenBatch]:
        """One pass over a whole split as tokens, on the CPU: in its own order, or in that of an `epoch`; `doing` says
        what for, where progress is shown.
        """
        images = self.splits[split]
        order = None if epoch is None else epoch_order(len(images), self.seed, epoch)
        loader = self._loader(EvaluationBatches(images, self.eval_batch_size, order=order))
        return map(self.tokenize, track(loader, f"{doing} the {split} split"))

    def labeled_batches(self, split: str, epoch: int | None = None, doing: str = "Reading") -> Iterator[TokenBatch]:
        """The same, without the images that have no label (-1)."""
        for batch in self.token_batches(split, epoch, doing):
            labeled = batch.labels >= 0
            if labeled.any():
                yield TokenBatch(*(part[labeled] for part in batch))

    @property
    def trains_on_validation(self) -> bool:
        """Whether the validation images are among those to train on, so that they must not choose anything."""
        return bool(getattr(self.source, "full_train", False))

    def _loader(self, dataset: TrainingStream | EvaluationBatches) -> BatchLoader:
        on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return BatchLoader(dataset, self.num_workers, pin_memory=on_gpu)

    # On the device

    def on_after_batch_transfer(self, batch: ImageBatch, dataloader_idx: int) -> TokenBatch:
        """Images to tokens, on the device; training images are augmented first."""
        training = self.trainer is not None and self.trainer.training
        return self.tokenize(batch, augment=training)

    def tokenize(self, batch: ImageBatch, augment: bool = False) -> TokenBatch:
        images = batch.images
        if augment:
            images = self.augment(images, self.seed, batch.epochs, batch.indices)
        return TokenBatch(self.tokenizer.encode(images), batch.labels, batch.indices, batch.epochs)
