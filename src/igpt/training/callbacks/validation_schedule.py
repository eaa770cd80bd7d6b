"""What is done at some validations only."""

from __future__ import annotations

import pytorch_lightning as pl


def due_at_validation(trainer: pl.Trainer, every_n_steps: int | None) -> bool:
    """Whether there is a multiple of `every_n_steps` (None: never) among the steps since the previous validation."""
    if every_n_steps is None:
        return False
    interval = int(trainer.val_check_interval) // trainer.accumulate_grad_batches
    return trainer.global_step // every_n_steps > (trainer.global_step - interval) // every_n_steps
