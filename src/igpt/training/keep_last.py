"""last.ckpt: written every so many steps, at the end, and when somebody asks to stop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from igpt.run import RunDirectory
from igpt.training.agreement import AnyOf
from igpt.training.preemption import Interrupted, stop_signals
from igpt.training.tracking import MetricsCSV


class KeepLast(pl.Callback):
    """Saves to `path` every `every_n_steps` steps and at the end. When somebody asks to stop (Ctrl-C, SIGTERM, SLURM's
    SIGUSR2), saves at the end of the running step and raises :class:`Interrupted`; several processes do so after the
    step that follows, since they have to hear of each other first.

    The checkpoint before the newest stays beside it as previous.ckpt.
    """

    def __init__(self, path: Path, every_n_steps: int) -> None:
        self.path = path
        self.every_n_steps = every_n_steps
        self._saving_is_due = False
        self._stopping = False
        self._stop_requested = AnyOf()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        stop_signals.defer()
        self._stop_requested.open()

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
        # A signal reaches the processes at different moments, so they agree on it after every step.
        if self._stop_requested.ask(stop_signals.requested):
            self._save(trainer)
            self._stopping = True  # before the next step, when this one's metrics are written too
        elif self._saving_is_due:
            self._save(trainer)
            self._saving_is_due = False

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._stop_requested.hear()
        self._save(trainer)

    def _save(self, trainer: pl.Trainer) -> None:
        """Write the new checkpoint whole before the newest becomes the previous one."""
        _write_metrics(trainer)
        new = self.path.with_name(".new.ckpt")
        trainer.save_checkpoint(new)
        if trainer.is_global_zero:
            if self.path.exists():
                self.path.replace(RunDirectory(self.path.parent.parent).previous)
            new.replace(self.path)
        trainer.strategy.barrier("last.ckpt")


def _write_metrics(trainer: pl.Trainer) -> None:
    """The step's row of metrics.csv, before the checkpoint: Lightning writes it later, and a kill in between would lose
    it, since a run goes on with the step after.
    """
    if trainer.global_step % trainer.log_every_n_steps:  # type: ignore[attr-defined]
        return
    values = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("train/")}
    for logger in trainer.loggers:
        if isinstance(logger, MetricsCSV):
            logger.log_metrics(values, trainer.global_step - 1)
            logger.save()


def _validation_is_due(trainer: pl.Trainer) -> bool:
    """Whether validation follows the batch that just ended, of an endless loader."""
    batches = trainer.fit_loop.epoch_loop.total_batch_idx + 1
    return trainer.enable_validation and batches % trainer.val_check_batch == 0  # type: ignore[operator, no-any-return]
