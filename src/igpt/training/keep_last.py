"""last.ckpt: written every so many steps, at the end, and when somebody asks to stop."""

from __future__ import annotations

from enum import IntEnum
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from igpt.errors import IgptError
from igpt.run import RunDirectory
from igpt.training.agreement import Highest
from igpt.training.preemption import Interrupted, stop_signals
from igpt.training.tracking import MetricsCSV


class Stop(IntEnum):
    """Why training stops; of several reasons, the highest one counts."""

    NO = 0
    ASKED = 1
    WORKER_LOST = 2


class KeepLast(pl.Callback):
    """Saves to `path` every `every_n_steps` steps and at the end. When somebody asks to stop (Ctrl-C, SIGTERM, SLURM's
    SIGUSR2), saves at the end of the running step and raises :class:`Interrupted`; several processes do so after the
    step that follows, since they have to hear of each other first. If a data worker died, it does the same, and that
    is an error.

    The checkpoint before the newest stays beside it as previous.ckpt.
    """

    def __init__(self, path: Path, every_n_steps: int) -> None:
        self.path = path
        self.every_n_steps = every_n_steps
        self._saving_is_due = False
        self._stop = Stop.NO
        self._agreement = Highest()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Lightning would put handlers of its own over ours: one talks to the other processes amid whatever they do.
        trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        stop_signals.defer()
        self._agreement.open()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._stop == Stop.WORKER_LOST and trainer.is_global_zero:
            raise IgptError(
                f"A data worker died, perhaps for lack of memory; step {trainer.global_step} is saved in {self.path}. "
                "Resume with a smaller data.num_workers (0: none), or with more memory."
            )
        if self._stop:
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
        self._stop = Stop(self._agreement.ask(_own_reason(trainer)))
        if self._stop:
            self._save(trainer)  # and stop before the next step, when this one's metrics are written too
        elif self._saving_is_due:
            self._save(trainer)
            self._saving_is_due = False

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._agreement.hear()
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


def _own_reason(trainer: pl.Trainer) -> Stop:
    """Why this process would stop."""
    loaders = (trainer.train_dataloader, trainer.val_dataloaders)
    if any(getattr(loader, "lost", None) for loader in loaders):
        return Stop.WORKER_LOST
    return Stop.ASKED if stop_signals.requested else Stop.NO


def _validation_is_due(trainer: pl.Trainer) -> bool:
    """Whether validation follows the batch that just ended, of an endless loader."""
    batches = trainer.fit_loop.epoch_loop.total_batch_idx + 1
    return trainer.enable_validation and batches % trainer.val_check_batch == 0  # type: ignore[operator, no-any-return]
