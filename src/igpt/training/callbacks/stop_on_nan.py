"""Stops a run whose loss is NaN or infinite, before this state is saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from igpt.errors import IgptError


class NotFiniteError(IgptError):
    """The loss or the weights are NaN or infinite."""


class StopOnNaN(pl.Callback):
    """Raises :class:`NotFiniteError` after a step whose loss is not finite. It names `checkpoint`, the last good one.

    The first such step is recorded on the device. The record is read every `log_every_n_steps` steps and before each
    checkpoint, since reading it waits for the device.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        self._bad_step: Tensor | None = None  # (), counted from 1; 0 if there is none

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = outputs["loss"].detach()
        if self._bad_step is None:
            self._bad_step = torch.zeros((), dtype=torch.int64, device=loss.device)
        is_first = ~torch.isfinite(loss) & (self._bad_step == 0)
        # torch.where would copy the step to the device and wait for it.
        self._bad_step = self._bad_step.masked_fill(is_first, trainer.global_step)
        if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._check()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._check()

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._check()
        if not all(bool(torch.isfinite(p).all()) for p in pl_module.parameters()):
            raise self._error("The weights", trainer.global_step)

    def _check(self) -> None:
        if self._bad_step is not None and (step := int(self._bad_step)):
            raise self._error("The loss", step)

    def _error(self, subject: str, step: int) -> NotFiniteError:
        saved = f"the last good checkpoint is {self.checkpoint}" if self.checkpoint.exists() else "no step was saved"
        return NotFiniteError(
            f"{subject} became NaN or infinite at step {step}; {saved}. Try a lower optim.lr, a longer "
            "optim.warmup_steps or trainer.gradient_clip_val=1."
        )
