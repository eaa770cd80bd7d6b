"""last.ckpt: written every so many steps, at the end, and when somebody asks to stop."""

from __future__ import annotations

from enum import IntEnum
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint

from igpt.cluster.agreement import Highest
from igpt.cluster.signals import Interrupted, stop_signals
from igpt.errors import IgptError
from igpt.run_directory import RunDirectory


class Stop(IntEnum):
    """Why training stops; of several reasons, the highest one counts."""

    NO = 0
    ASKED = 1
    WORKER_LOST = 2


class KeepLast(Checkpoint):
    """Saves to `path` every `every_n_steps` steps (None: never) and at the end. When somebody asks to stop (Ctrl-C,
    SIGTERM, SLURM's SIGUSR2), saves after the running step and raises :class:`Interrupted`; several processes do so
    after the step that follows, since they have to hear of each other first. If a data worker died, it does the same,
    and that is an error.

    A step is saved when the next one begins: by then, its validation is done and its rows are written, so that a run
    resumed from there has nothing to catch up on. The checkpoint before the newest stays beside it as previous.ckpt.
    """

    def __init__(self, path: Path, every_n_steps: int | None) -> None:
        self.path = path
        self.every_n_steps = every_n_steps
        self._saved_step = 0
        self._agreement = Highest()

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._saved_step = checkpoint["global_step"]

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Lightning would put handlers of its own over ours: one talks to the other processes amid whatever they do.
        trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
        for part in self.path.parent.glob(".*.ckpt") if trainer.is_global_zero else ():
            part.unlink()  # what a kill in the middle of a save has left

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        stop_signals.defer()
        self._agreement.open()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 0 or batch_idx % trainer.accumulate_grad_batches:
            return  # no step has just ended
        # A signal reaches the processes at different moments, so they agree on it after every step.
        reason = Stop(self._agreement.ask(_own_reason(trainer)))
        if reason or (self.every_n_steps and trainer.global_step % self.every_n_steps == 0):
            self._save(trainer)
        if reason == Stop.WORKER_LOST and trainer.is_global_zero:
            raise IgptError(
                f"A data worker died, perhaps for lack of memory; step {trainer.global_step} is saved in {self.path}. "
                "Resume with a smaller data.num_workers (0: none), or with more memory."
            )
        if reason:
            raise Interrupted

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._agreement.hear()
        if trainer.global_step > self._saved_step:
            self._save(trainer)

    def _save(self, trainer: pl.Trainer) -> None:
        """Write the new checkpoint whole before the newest becomes the previous one."""
        new = self.path.with_name(".new.ckpt")
        trainer.save_checkpoint(new)
        if trainer.is_global_zero:
            if self.path.exists():
                self.path.replace(RunDirectory(self.path.parent.parent).previous)
            new.replace(self.path)
        trainer.strategy.barrier("last.ckpt")
        self._saved_step = trainer.global_step


def _own_reason(trainer: pl.Trainer) -> Stop:
    """Why this process would stop."""
    loaders = (trainer.train_dataloader, trainer.val_dataloaders)
    if any(getattr(loader, "lost", None) for loader in loaders):
        return Stop.WORKER_LOST
    return Stop.ASKED if stop_signals.requested else Stop.NO
