"""A validation after the last step of training."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl


class ValidateLastStep(pl.Callback):
    """Validates after the last step, too, if the number of steps is no multiple of the interval. The learning rate has
    decayed there, so it is often the best step.
    """

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step >= trainer.max_steps:
            trainer.should_stop = True  # Lightning validates before it stops
