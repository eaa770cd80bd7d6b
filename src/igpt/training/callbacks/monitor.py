"""What follows from the monitored value: which checkpoint is the best, and when training ends early."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint, EarlyStopping
from pytorch_lightning.callbacks.early_stopping import EarlyStoppingReason
from pytorch_lightning.utilities import rank_zero_only

from igpt.errors import IgptError
from igpt.pretrained import step_of
from igpt.run_directory import is_whole

log = logging.getLogger(__name__)


def monitored_value(trainer: pl.Trainer, name: str) -> float:
    """The value of `name` after a validation; an :class:`IgptError` if nothing measures it."""
    if name not in trainer.callback_metrics:
        raise IgptError(f"monitor is '{name}', which is not measured; choose one of {', '.join(measured(trainer))}.")
    return float(trainer.callback_metrics[name])


def measured(trainer: pl.Trainer) -> list[str]:
    """What a validation measures."""
    return sorted(name for name in trainer.callback_metrics if not name.startswith("train/"))


class KeepBest(Checkpoint):
    """Saves to `path` after each validation whose `monitor` is better than ever before.

    A checkpoint holds the best value and its step, but no path, so that a run may be moved, copied or linked.
    """

    def __init__(self, path: str, monitor: str, mode: str) -> None:
        self.path = Path(path)
        self.monitor = monitor
        self.mode = mode
        self.value: float | None = None
        self.step = 0

    @property
    def state_key(self) -> str:
        """A best value is kept as long as it is a value of the same thing."""
        return f"KeepBest({self.monitor}, {self.mode})"

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value, "step": self.step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.value, self.step = state_dict["value"], state_dict["step"]
        if self.value is not None and self._step_there() != self.step:
            message = "%s, of step %d, is missing; the best checkpoint from here on is kept instead."
            rank_zero_only(log.warning)(message, self.path, self.step)
            self.value, self.step = None, 0

    def _step_there(self) -> int | None:
        """The step of the best checkpoint on disk. It is another one than we know of if the run was killed before the
        last checkpoint took note of it: those steps are trained again, perhaps in another way.
        """
        return step_of(self.path) if is_whole(self.path) else None

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        value = monitored_value(trainer, self.monitor)
        # One answer for all processes, whose values may differ by rounding.
        if not trainer.sanity_checking and trainer.strategy.broadcast(self._is_better(value)):
            self.value, self.step = value, trainer.global_step
            trainer.save_checkpoint(self.path)

    def _is_better(self, value: float) -> bool:
        if self.value is None:
            return math.isfinite(value)
        return value > self.value if self.mode == "max" else value < self.value


class EarlyStop(EarlyStopping):
    """Lightning's, for runs that are resumed. `patience` is always the configuration's. A run that has stopped is
    finished; it trains on only if it is given more `patience` or more steps than it had then.
    """

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
        monitored_value(trainer, self.monitor)  # or an error that says what there is
        super().on_validation_end(trainer, pl_module)
