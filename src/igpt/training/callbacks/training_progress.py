"""The progress of training: step, loss, monitored metric, images per second, time left."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar
from torch import Tensor

from igpt.metric_names import IMAGES_PER_SECOND
from igpt.progress import Progress

log = logging.getLogger(__name__)

LINE_EVERY = 60.0  # seconds, without a terminal
LOSS, VALIDATION = "train/loss", "val/nats_per_token"


class TrainingProgress(ProgressBar):
    """A bar for training and another for each validation; without a terminal, a line in the log every minute. With or
    without one, a line in the log after each validation.

    The loss is the one that is optimized. `monitor` is the metric by which the best checkpoint is chosen. Images per
    second are those of :class:`~igpt.training.callbacks.throughput.Throughput`.
    """

    def __init__(self, monitor: str) -> None:
        super().__init__()
        self.monitor = monitor
        self._training: Progress | None = None
        self._validating: Progress | None = None
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        def text() -> str:
            return ", ".join((f"step {trainer.global_step}/{trainer.max_steps}", *self._values(trainer)))

        if self._enabled and trainer.is_global_zero:
            self._training = Progress("Training", trainer.max_steps, trainer.global_step, text, LINE_EVERY)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._training is not None:
            self._training.update(trainer.global_step)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._training is not None:
            (batches,) = trainer.num_val_batches
            self._validating = Progress("Validating", batches if math.isfinite(batches) else None)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._validating is not None:
            self._validating.advance()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._validating is None or self._training is None:
            return
        self._validating.close()
        parts = (*self._values(trainer), *self._training.time_left())
        log.info("step %d/%d: %s", trainer.global_step, trainer.max_steps, ", ".join(parts))

    def _values(self, trainer: pl.Trainer) -> list[str]:
        """The last logged values; reading them waits for the device."""
        return metric_texts(trainer.callback_metrics, self.monitor)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        for progress in (self._validating, self._training):
            if progress is not None:
                progress.close()
        self._training = self._validating = None


def metric_texts(metrics: Mapping[str, Tensor], monitor: str) -> list[str]:
    """Loss, validation loss, monitored metric and speed, as far as they have been logged."""
    parts = [f"loss {metrics[LOSS]:.4f}"] if LOSS in metrics else []
    parts += [f"{name} {metrics[name]:.4f}" for name in dict.fromkeys((VALIDATION, monitor)) if name in metrics]
    return parts + ([f"{metrics[IMAGES_PER_SECOND]:.0f} images/s"] if IMAGES_PER_SECOND in metrics else [])
