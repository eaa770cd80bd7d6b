"""last.ckpt: written at regular intervals, at the end, and when a signal asks the run to stop."""

from __future__ import annotations

from enum import IntEnum
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint

from igpt.cluster.agreement import DelayedMaximum
from igpt.cluster.signals import Interrupted, stop_signals
from igpt.errors import IgptError
from igpt.run_directory import RunDirectory
from igpt.training.loggers.metrics_csv import MetricsCSV


class StopReason(IntEnum):
    """Why training stops; of several reasons, the highest one counts."""

    NONE = 0
    SIGNAL = 1
    WORKER_DIED = 2


class KeepLast(Checkpoint):
    """Saves to `path` every `every_n_steps` steps (None: never) and at the end.

    After a signal (Ctrl-C, SIGTERM, SLURM's SIGUSR2) it saves at the end of the running step and raises
    :class:`Interrupted`. Several processes do so one step later, since they have to agree on it first. After the death
    of a data worker it saves in the same way, and raises an error.

    A step is saved when the next one begins. By then its validation is done and its row of metrics.csv is complete, so
    a run that is resumed from there has nothing to catch up on. The checkpoint before it stays as previous.ckpt.
    """

    def __init__(self, path: Path, every_n_steps: int | None) -> None:
        self.path = path
        self.every_n_steps = every_n_steps
        self._saved_step = 0
        self._agreement = DelayedMaximum()

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._saved_step = checkpoint["global_step"]

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Lightning would replace our signal handlers by its own, one of which communicates with the other processes
        # whatever these are doing.
        trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
        for part in self.path.parent.glob(".*.ckpt") if trainer.is_global_zero else ():
            part.unlink()  # left by a kill during a save

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        stop_signals.defer()
        self._agreement.start()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 0 or batch_idx % trainer.accumulate_grad_batches:
            return  # no step has just ended
        # A signal reaches the processes at different moments, so they agree on it after every step.
        reason = StopReason(self._agreement.submit(_own_reason(trainer)))
        if reason or (self.every_n_steps and trainer.global_step % self.every_n_steps == 0):
            self._save(trainer)
        if reason == StopReason.WORKER_DIED and trainer.is_global_zero:
            raise IgptError(
                f"A data worker died, perhaps for lack of memory; step {trainer.global_step} is saved in {self.path}. "
                "Resume with a smaller data.num_workers (0: none), or with more memory."
            )
        if reason:
            raise Interrupted

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._agreement.finish()
        if trainer.global_step > self._saved_step:
            self._save(trainer)

    def _save(self, trainer: pl.Trainer) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, MetricsCSV):
                logger.flush()  # rows of saved steps are not trained, and so not logged, again
        # The new checkpoint is complete before the last one becomes the previous one.
        new = self.path.with_name(".new.ckpt")
        trainer.save_checkpoint(new)
        if trainer.is_global_zero:
            if self.path.exists():
                self.path.replace(RunDirectory(self.path.parent.parent).previous)
            new.replace(self.path)
        trainer.strategy.barrier("last.ckpt")
        self._saved_step = trainer.global_step


def _own_reason(trainer: pl.Trainer) -> StopReason:
    """Why this process would stop."""
    loaders = (trainer.train_dataloader, trainer.val_dataloaders)
    if any(getattr(loader, "lost", None) for loader in loaders):
        return StopReason.WORKER_DIED
    return StopReason.SIGNAL if stop_signals.requested else StopReason.NONE
