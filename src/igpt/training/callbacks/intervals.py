"""What is done at some validations, or at some logged steps, only."""

from __future__ import annotations

import pytorch_lightning as pl


def due_at_validation(trainer: pl.Trainer, every_n_steps: int | None) -> bool:
    """Whether there is a multiple of `every_n_steps` (None: never) among the steps since the previous validation."""
    if every_n_steps is None or trainer.sanity_checking:
        return False
    interval, step = int(trainer.val_check_interval) // trainer.accumulate_grad_batches, trainer.global_step
    return passes_multiple(step, step % interval or interval, every_n_steps)  # the last step may be no multiple


def due_at_step(trainer: pl.Trainer, every_n_steps: int | None) -> bool:
    """Before an optimizer step: whether its values are logged, and whether there is a multiple of `every_n_steps`
    (None: never) among the steps since the previous logged one.
    """
    interval: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    step = trainer.global_step + 1
    return every_n_steps is not None and step % interval == 0 and passes_multiple(step, interval, every_n_steps)


def passes_multiple(step: int, interval: int, every: int) -> bool:
    """Whether there is a multiple of `every` among the last `interval` steps up to `step`."""
    return step // every > (step - interval) // every
