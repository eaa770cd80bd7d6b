"""The LightningDataModule: packs images, builds the palette, and hands out batches of tokens."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from filelock import FileLock
from torch.utils.data import DataLoader

from igpt.batch import ImageBatch, TokenBatch
from igpt.data.augment import horizontal_flip
from igpt.data.packed import PackedImages, content_key, open_packed, pack, packed_folder
from igpt.data.sources import ImageSource
from igpt.data.stream import EvaluationBatches, Share, TrainingStream, epoch_order
from igpt.errors import IgptError
from igpt.tokenizers import Palette, Tokenizer
from igpt.tokenizers.kmeans import PaletteRecipe

log = logging.getLogger(__name__)

PIXELS_PER_CHUNK = 2**24


class ImageDataModule(pl.LightningDataModule):
    """Batches of tokens from a source of images.

    `batch_size` is the global one: images an optimiser step, over all processes and accumulated micro-batches.
    Images travel to the device as uint8 and become tokens there. `flip` mirrors training images at random.
    """

    def __init__(
        self,
        source: ImageSource,
        tokenizer: PaletteRecipe,
        batch_size: int,
        cache_dir: str,
        eval_batch_size: int = 128,
        flip: bool = False,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.source = source
        self.recipe = tokenizer
        self.cache_dir = Path(cache_dir).expanduser()
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.flip = flip
        self.num_workers = num_workers
        self.seed = seed
        self.splits: dict[str, PackedImages] = {}
        self._tokenizer: Tokenizer | None = None

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, known after :meth:`setup`."""
        if self._tokenizer is None:
            raise RuntimeError("call prepare_data() and setup() first")
        return self._tokenizer

    @property
    def n_tokens(self) -> int:
        """Tokens of one image."""
        return self.tokenizer.n_tokens(self.source.resolution)

    def use_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Take this tokenizer, a trained model's for example, instead of building or reading one."""
        self._tokenizer = tokenizer

    # Making: once a machine, whichever process comes first

    def prepare_data(self) -> None:
        """Pack the images and build the palette, unless both are in the cache already."""
        try:
            pack(self.source, self.cache_dir)
            if self._tokenizer is None and self.recipe.path is None:
                self._build_palette()
        except OSError as error:
            raise IgptError(
                f"The cache at {self.cache_dir} cannot be written ({error}); set IGPT_CACHE or data.cache_dir."
            ) from None

    def _build_palette(self) -> None:
        path = self._palette_path()
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if not path.exists():
                train = open_packed(packed_folder(self.source, self.cache_dir))["train"].images
                step = max(1, PIXELS_PER_CHUNK // train[0, ..., 0].size)
                palette = self.recipe.build(
                    lambda: (train[i : i + step] for i in range(0, len(train), step)),
                    source=f"{self.source.name} at {self.source.resolution}x{self.source.resolution}",
                )
                palette.save(path)
                log.info("Built a palette of %d colours, PSNR %.2f dB", palette.vocab_size, palette.info["psnr_db"])

    def _palette_path(self) -> Path:
        key = content_key(self.source.key(), self.recipe.key())
        return self.cache_dir / "palettes" / f"{self.source.name}-{self.recipe.size}-{key}.npz"

    # Opening: in every process

    def setup(self, stage: str | None = None) -> None:
        """Open the packed splits and the palette."""
        if not self.splits:
            self.splits = open_packed(packed_folder(self.source, self.cache_dir))
        if self._tokenizer is None:
            self._tokenizer = Palette.load(Path(self.recipe.path or self._palette_path()).expanduser())

    def train_dataloader(self) -> DataLoader[ImageBatch]:
        """Batches without end, starting where the trainer's step counter stands."""
        train = self.splits["train"]
        if self.batch_size > len(train):
            raise IgptError(
                f"data.batch_size is {self.batch_size}, but {self.source.name} has only {len(train)} training images; "
                "choose a smaller batch."
            )
        share = self._share()
        start = self.trainer.global_step * share.accumulate if self.trainer else 0
        return self._loader(TrainingStream(train, share, self.seed, start))

    def val_dataloader(self) -> DataLoader[ImageBatch]:
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return self._loader(EvaluationBatches(self.splits["validation"], self.eval_batch_size, rank, world_size))

    def token_batches(self, split: str, epoch: int | None = None) -> Iterator[TokenBatch]:
        """One pass over a whole split as tokens, on the CPU: in its own order, or in that of an `epoch`."""
        images = self.splits[split]
        order = None if epoch is None else epoch_order(len(images), self.seed, epoch)
        return map(self.tokenize, self._loader(EvaluationBatches(images, self.eval_batch_size, order=order)))

    def _share(self) -> Share:
        if self.trainer is None:
            return Share(self.batch_size)
        share = Share(
            self.batch_size, self.trainer.global_rank, self.trainer.world_size, self.trainer.accumulate_grad_batches
        )
        if share.micro_batch * share.world_size * share.accumulate != self.batch_size:
            raise IgptError(
                f"data.batch_size={self.batch_size} cannot be shared evenly by {share.world_size} processes with "
                f"trainer.accumulate_grad_batches={share.accumulate}; choose a multiple of "
                f"{share.world_size * share.accumulate}."
            )
        return share

    def _loader(self, dataset: Any) -> DataLoader[ImageBatch]:
        on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return DataLoader(
            dataset,
            batch_size=None,  # the data set yields whole batches
            num_workers=self.num_workers,
            pin_memory=on_gpu,
            persistent_workers=self.num_workers > 0,
        )

    # On the device

    def on_after_batch_transfer(self, batch: ImageBatch, dataloader_idx: int) -> TokenBatch:
        """Images to tokens, on the device; training images are mirrored first if `flip` says so."""
        training = self.trainer is not None and self.trainer.training
        return self.tokenize(batch, augment=training)

    def tokenize(self, batch: ImageBatch, augment: bool = False) -> TokenBatch:
        images = batch.images
        if augment and self.flip:
            images = horizontal_flip(images, self.seed, batch.epochs, batch.indices)
        return TokenBatch(self.tokenizer.encode(images), batch.labels, batch.indices, batch.epochs)

    # In checkpoints

    def state_dict(self) -> dict[str, Any]:
        return {
            "tokenizer": self.tokenizer.state_dict(),
            "fingerprint": self.tokenizer.fingerprint,
            "source": self.source.key(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to go on with another tokenizer than the one the checkpoint was trained with."""
        if state_dict["fingerprint"] != self.tokenizer.fingerprint:
            raise IgptError(
                f"The checkpoint was trained with the tokenizer {state_dict['fingerprint']}, but this configuration "
                f"gives {self.tokenizer.fingerprint}; go on with the data and tokenizer settings of the first run."
            )
