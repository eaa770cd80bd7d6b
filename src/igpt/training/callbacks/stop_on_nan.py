"""Stops a run whose loss is NaN or infinite, before this state is saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import pytorch_lightning as pl
import torch
from torch import Tensor

from igpt.cluster.signals import Interrupted
from igpt.errors import IgptError

NEVER = torch.iinfo(torch.int64).max  # a step


class NotFiniteError(IgptError):
    """The loss or the weights are NaN or infinite."""


class StopOnNaN(pl.Callback):
    """Raises :class:`NotFiniteError` after a step whose loss is not finite. It names `checkpoint`, the last good one.

    The first such step is recorded on the device. The record is read every `log_every_n_steps` steps and before each
    checkpoint, since reading it waits for the device. Processes then agree on it: the loss of one alone may be NaN.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        self._bad_step: Tensor | None = None  # (), counted from 1; NEVER if there is none

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = outputs["loss"].detach()
        if self._bad_step is None:
            self._bad_step = torch.full((), NEVER, device=loss.device)
        ends_step = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        step = trainer.global_step if ends_step else trainer.global_step + 1
        is_first = ~torch.isfinite(loss) & (self._bad_step == NEVER)
        # torch.where would copy the step to the device and wait for it.
        self._bad_step = self._bad_step.masked_fill(is_first, step)
        if ends_step and step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._check(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._check(trainer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._check(trainer)
        finite = all(bool(torch.isfinite(p).all()) for p in pl_module.parameters())
        if not trainer.strategy.reduce_boolean_decision(finite):
            self._stop(trainer, "The weights", trainer.global_step)

    def _check(self, trainer: pl.Trainer) -> None:
        if self._bad_step is None:
            return
        first = int(trainer.strategy.reduce(self._bad_step.clone(), reduce_op="min"))
        if first != NEVER:
            self._stop(trainer, "The loss", first)

    def _stop(self, trainer: pl.Trainer, subject: str, step: int) -> NoReturn:
        if not trainer.is_global_zero:
            raise Interrupted  # an error of another process would end the main process before it can report its own
        saved = f"the last good checkpoint is {self.checkpoint}" if self.checkpoint.exists() else "no step was saved"
        raise NotFiniteError(
            f"{subject} became NaN or infinite at step {step}; {saved}. Try a lower optim.lr, a longer "
            "optim.warmup_steps or trainer.gradient_clip_val=1."
        )
