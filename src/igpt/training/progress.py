"""The progress bar: step, loss, nats per token, images a second, time left."""

from __future__ import annotations

import logging
import time
from typing import Any

import pytorch_lightning as pl
import rich
from pytorch_lightning.callbacks import ProgressBar
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

log = logging.getLogger(__name__)


class TrainingProgress(ProgressBar):
    """A rich bar on a terminal; elsewhere a line in the log at each validation. Also logs images a second.

    `batch_size` is the global one, images a step.
    """

    def __init__(self, batch_size: int) -> None:
        super().__init__()
        self.batch_size = batch_size
        self._bar: Progress | None = None
        self._enabled = True
        self._since = (0.0, 0)  # time and step at which the current measurement of speed began
        self._speed = 0.0

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._since = (time.perf_counter(), trainer.global_step)
        if self._enabled and trainer.is_global_zero and rich.get_console().is_terminal:
            columns = ("[bold]{task.description}", "{task.completed}/{task.total}", "{task.fields[text]}")
            texts = [TextColumn(column) for column in columns]
            self._bar = Progress(texts[0], BarColumn(20), *texts[1:], TimeRemainingColumn(), console=rich.get_console())
            self._bar.add_task("train", total=trainer.max_steps, completed=trainer.global_step, text="")
            self._bar.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step % trainer.log_every_n_steps == 0 and trainer.global_step > self._since[1]:  # type: ignore[attr-defined]
            now, step = time.perf_counter(), trainer.global_step
            self._speed = (step - self._since[1]) * self.batch_size / (now - self._since[0])
            self._since = (now, step)
            pl_module.log("train/images_per_second", self._speed)
        self._show(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._pause_started = time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        paused = time.perf_counter() - self._pause_started  # validation is not training time
        self._since = (self._since[0] + paused, self._since[1])
        nats = trainer.callback_metrics.get("val/nats_per_token")
        if nats is not None:
            log.info(
                "step %d of %d: validation %.4f nats per token, %.0f images a second",
                trainer.global_step, trainer.max_steps, nats, self._speed,
            )  # fmt: skip

    def _show(self, trainer: pl.Trainer) -> None:
        if self._bar is None:
            return
        metrics, text = trainer.callback_metrics, ""
        if trainer.global_step % trainer.log_every_n_steps == 0 and "train/nats_per_token" in metrics:  # type: ignore[attr-defined]
            nats = float(metrics["train/nats_per_token"])
            text = f"loss {nats:.3f}  {nats:.3f} nats/token  {self._speed:.0f} images/s"
            self._bar.update(self._bar.task_ids[0], text=text)
        self._bar.update(self._bar.task_ids[0], completed=trainer.global_step)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
