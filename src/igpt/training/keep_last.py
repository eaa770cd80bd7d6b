"""last.ckpt: written every so many steps, at the end, and when somebody presses Ctrl-C."""

from __future__ import annotations

import logging
import signal
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """Training stopped because somebody asked, after saving. Not an Exception: nothing went wrong."""


class KeepLast(pl.Callback):
    """Saves to `path` every `every_n_steps` steps and at the end; on SIGINT or SIGTERM saves at the end of the running
    step and raises :class:`Interrupted`. A second signal stops at once, without saving.

    Nothing is done inside the signal handler but to set a flag: a signal may come in the middle of an update, or at
    different moments in different processes, which therefore agree on the flag after every step.
    """

    def __init__(self, path: Path, every_n_steps: int) -> None:
        self.path = path
        self.every_n_steps = every_n_steps
        self._saving_is_due = False
        self._stop_requested = False
        self._stopping = False
        self._previous_handlers: dict[int, Any] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        for number in SIGNALS:
            self._previous_handlers[number] = signal.signal(number, self._request_stop)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        while self._previous_handlers:
            signal.signal(*self._previous_handlers.popitem())

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.teardown(trainer, pl_module, "fit")

    def _request_stop(self, number: int, frame: FrameType | None) -> None:
        if self._stop_requested:
            raise KeyboardInterrupt
        self._stop_requested = True
        log.info("Stopping after this step; a second Ctrl-C stops at once, without saving.")

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._stopping:
            raise Interrupted

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return  # in the middle of a step
        self._saving_is_due |= trainer.global_step % self.every_n_steps == 0
        if _validation_is_due(trainer):
            return  # a run that goes on from here would miss that validation; save after the next step
        if trainer.strategy.reduce_boolean_decision(self._stop_requested, all=False):
            trainer.save_checkpoint(self.path)
            self._stopping = True  # before the next step, when this one's metrics are written too
        elif self._saving_is_due:
            trainer.save_checkpoint(self.path)
            self._saving_is_due = False

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.save_checkpoint(self.path)


def _validation_is_due(trainer: pl.Trainer) -> bool:
    """Whether validation follows the batch that just ended, of an endless loader."""
    batches = trainer.fit_loop.epoch_loop.total_batch_idx + 1
    return trainer.enable_validation and batches % trainer.val_check_batch == 0  # type: ignore[operator, no-any-return]
