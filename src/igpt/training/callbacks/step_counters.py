"""A run counts optimizer steps; Lightning's counters of micro-batches follow from them."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl


class StepCounters(pl.Callback):
    """Saves the number of steps, and nothing else of Lightning's progress, in a checkpoint. So a resumed run may divide
    its batches into other micro-batches, or among other processes: its next step, samples, validations and logged rows
    are those of an uninterrupted run.
    """

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        del checkpoint["loops"]  # Lightning's counters of micro-batches

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Set Lightning's counters as they are between two steps of an uninterrupted run. It has no public way to."""
        steps = checkpoint["global_step"]
        loop = trainer.fit_loop.epoch_loop
        loop.automatic_optimization.optim_progress.optimizer.step.total.increment_by(steps)  # trainer.global_step
        loop.batch_progress.total.increment_by(steps * trainer.accumulate_grad_batches)  # when to validate
        loop._batches_that_stepped = steps  # the step of the next logged row
