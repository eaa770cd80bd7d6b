"""best.ckpt: the checkpoint of the best validation."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.utilities import rank_zero_only

from igpt.checkpoint import is_whole, step_of
from igpt.training.callbacks.monitored import monitored_value

log = logging.getLogger(__name__)


class KeepBest(Checkpoint):
    """Saves to `path` after each validation whose `monitor` is better than all before it.

    Checkpoints hold the best value and its step, but no path, so that a run may be moved, copied or linked.
    """

    def __init__(self, path: str, monitor: str, mode: str) -> None:
        self.path = Path(path)
        self.monitor = monitor
        self.mode = mode
        self.value: float | None = None
        self.step = 0

    @property
    def state_key(self) -> str:
        """With the name of the metric, since the best value of another one must not be restored."""
        return f"best({self.monitor}, {self.mode})"

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value, "step": self.step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.value, self.step = state_dict["value"], state_dict["step"]
        if self.value is not None and self._step_on_disk() != self.step:
            message = "%s, of step %d, is missing; the best checkpoint from here on is kept instead."
            rank_zero_only(log.warning)(message, self.path, self.step)
            self.value, self.step = None, 0

    def _step_on_disk(self) -> int | None:
        """The step of the best checkpoint on disk. It is a later one than the restored step if the run was killed
        between the two: those steps are trained again, perhaps with other settings.
        """
        return step_of(self.path) if is_whole(self.path) else None

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        value = monitored_value(trainer, self.monitor)
        # The first process decides for all: their values may differ by rounding.
        if not trainer.sanity_checking and trainer.strategy.broadcast(self._is_better(value)):
            self.value, self.step = value, trainer.global_step
            trainer.save_checkpoint(self.path)

    def _is_better(self, value: float) -> bool:
        if self.value is None:
            return math.isfinite(value)
        return value > self.value if self.mode == "max" else value < self.value
