"""A run counts optimizer steps. Lightning counts micro-batches, and what it counts follows from the steps here."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl


class CountSteps(pl.Callback):
    """Of where training stands, a checkpoint holds the number of steps and nothing else. A resumed run may cut its
    batches into other micro-batches, or share them among other processes: the next step, its samples, validations and
    logged rows are those of an uninterrupted run.
    """

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        del checkpoint["loops"]  # Lightning's counters, of micro-batches

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Set Lightning's counters as they are between two steps of an uninterrupted run. It has no public way to."""
        steps = checkpoint["global_step"]
        loop = trainer.fit_loop.epoch_loop
        loop.automatic_optimization.optim_progress.optimizer.step.total.increment_by(steps)  # trainer.global_step
        loop.batch_progress.total.increment_by(steps * trainer.accumulate_grad_batches)  # when to validate
        loop._batches_that_stepped = steps  # under which step rows are logged


def due_at_validation(trainer: pl.Trainer, every_n_steps: int | None) -> bool:
    """Whether there is a multiple of `every_n_steps` (None: never) among the steps since the previous validation."""
    if every_n_steps is None:
        return False
    interval = int(trainer.val_check_interval) // trainer.accumulate_grad_batches
    return trainer.global_step // every_n_steps > (trainer.global_step - interval) // every_n_steps
