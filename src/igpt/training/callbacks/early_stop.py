"""Early stopping for runs that may be resumed."""

from __future__ import annotations

import logging
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.callbacks.early_stopping import EarlyStoppingReason
from pytorch_lightning.utilities import rank_zero_only

from igpt.training.callbacks.monitored import monitored_value

log = logging.getLogger(__name__)


class EarlyStop(EarlyStopping):
    """Lightning's, with the `patience` of the configuration also after a resume. A run that has stopped early is
    finished. It trains on only with more `patience`, or more steps, than it had when it stopped.
    """

    @property
    def state_key(self) -> str:
        """The key in checkpoints; Lightning's has the name of the class in it."""
        return f"early_stop({self.monitor}, {self.mode})"

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self._max_steps = trainer.max_steps

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "max_steps": self._max_steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        patience = self.patience
        super().load_state_dict(state_dict)
        self.patience = patience
        if patience > state_dict["patience"] or self._max_steps > state_dict["max_steps"]:
            self.stopping_reason = EarlyStoppingReason.NOT_STOPPED

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.stopping_reason is EarlyStoppingReason.NOT_STOPPED:
            return
        trainer.should_stop = True
        rank_zero_only(log.info)(
            "This run stopped early at step %d; raise callbacks.early_stop.patience or trainer.max_steps to train on.",
            trainer.global_step,
        )

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        monitored_value(trainer, self.monitor)  # raises an error that names what is measured
        super().on_validation_end(trainer, pl_module)
