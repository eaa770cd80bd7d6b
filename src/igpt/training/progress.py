"""The progress bar: step, loss, nats per token, images a second, time left."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import rich
from pytorch_lightning.callbacks import ProgressBar
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

log = logging.getLogger(__name__)


class TrainingProgress(ProgressBar):
    """A rich bar on a terminal; elsewhere a line in the log at each validation.

    Images a second are those that :class:`~igpt.training.throughput.Throughput` logs.
    """

    def __init__(self) -> None:
        super().__init__()
        self._bar: Progress | None = None
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._enabled and trainer.is_global_zero and rich.get_console().is_terminal:
            columns = ("[bold]{task.description}", "{task.completed}/{task.total}", "{task.fields[text]}")
            texts = [TextColumn(column) for column in columns]
            self._bar = Progress(texts[0], BarColumn(20), *texts[1:], TimeRemainingColumn(), console=rich.get_console())
            self._bar.add_task("train", total=trainer.max_steps, completed=trainer.global_step, text="")
            self._bar.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._bar is None:
            return
        task, step = self._bar.task_ids[0], trainer.global_step
        if step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]  # other steps would wait for the device
            self._bar.update(task, text=self._text(trainer.callback_metrics))
        self._bar.update(task, completed=step)

    def _text(self, metrics: Mapping[str, Tensor]) -> str:
        if "train/nats_per_token" not in metrics:
            return ""
        nats = float(metrics["train/nats_per_token"])
        return f"loss {nats:.3f}  {nats:.3f} nats/token  {metrics.get('train/images_per_second', 0):.0f} images/s"

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        metrics = trainer.callback_metrics
        if "val/nats_per_token" in metrics:
            log.info(
                "step %d of %d: validation %.4f nats per token, %.0f images a second",
                trainer.global_step, trainer.max_steps,
                metrics["val/nats_per_token"], metrics.get("train/images_per_second", 0),
            )  # fmt: skip

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
