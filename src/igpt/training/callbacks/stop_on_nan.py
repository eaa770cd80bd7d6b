"""Stops a run whose loss is no longer a number, before such a state reaches a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from igpt.errors import IgptError


class StopOnNaN(pl.Callback):
    """Note on the device at which step the loss stopped being finite, and look at that note every
    `log_every_n_steps` steps and before each checkpoint, so that the device is not waited for at every step.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        self._first_bad: Tensor | None = None  # step, counted from 1; 0 while all is well

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = outputs["loss"].detach()
        if self._first_bad is None:
            self._first_bad = torch.zeros((), dtype=torch.int64, device=loss.device)
        is_first = ~torch.isfinite(loss) & (self._first_bad == 0)
        # A number as `where`'s argument would be copied to the device, and waited for.
        self._first_bad = self._first_bad.masked_fill(is_first, trainer.global_step)
        if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._look()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._look()

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._look()
        if not all(bool(torch.isfinite(p).all()) for p in pl_module.parameters()):
            raise self._error("The weights", trainer.global_step)

    def _look(self) -> None:
        if self._first_bad is not None and (step := int(self._first_bad)):
            raise self._error("The loss", step)

    def _error(self, what: str, step: int) -> IgptError:
        kept = f"the last good checkpoint is {self.checkpoint}" if self.checkpoint.exists() else "no step was saved"
        return IgptError(
            f"{what} became NaN or infinite at step {step}; {kept}. Try a lower optim.lr, a longer optim.warmup_steps "
            "or trainer.gradient_clip_val=1."
        )
