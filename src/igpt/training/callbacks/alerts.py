"""Alerts: what a person should look at while a run trains, as lines of the log and as alerts of W&B."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from igpt.data.datamodule import ImageDataModule
from igpt.files import write_json
from igpt.metric_names import MFU
from igpt.training.callbacks.stop_on_nan import NotFiniteError
from igpt.training.loggers.media import send_alert
from igpt.training.loss_statistics import LossStatistics, Spike
from igpt.units import time_text

log = logging.getLogger(__name__)

STATISTICS = "loss_statistics"  # the key in checkpoints
SLOW_MEASUREMENTS = 3  # one after the other, before low MFU is an alert


class Alerts(pl.Callback):
    """Alerts, each null to leave it out, except for the first one:

    The loss is not finite: training ends.
    `spike`: the loss is this many standard deviations above its mean over the last `horizon` steps or so. The images of
    that batch are written to alerts/spike_step_*.json in `directory`.
    `stalled_minutes`: no step or validation batch has ended for so long.
    `low_mfu`: the model FLOPs utilization was below this value three times in a row.

    Losses are read every `log_every_n_steps` steps and before each checkpoint, since reading them waits for the device.
    Their averages are part of the checkpoint. Training is bitwise the same as without alerts.
    """

    def __init__(
        self,
        directory: str,
        spike: float | None = 6.0,
        horizon: int = 100,
        stalled_minutes: float | None = None,
        low_mfu: float | None = None,
    ) -> None:
        self.directory = Path(directory)
        self.statistics = None if spike is None else LossStatistics(spike, horizon)
        self.watchdog = None if stalled_minutes is None else Watchdog(60 * stalled_minutes)
        self.low_mfu = low_mfu
        self._slow = 0  # how many measurements in a row had a low MFU
        self._step_loss: Tensor | float = 0.0  # of the micro-batches of the step so far
        self._unread: list[Tensor] = []  # the losses of the last steps, of this process

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if self.statistics is not None:
            for name, value in checkpoint.get(STATISTICS, {}).items():
                setattr(self.statistics, name, value)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if self.statistics is not None:
            self._read_losses(trainer)
            settings = ("threshold", "horizon")  # of the configuration
            state = asdict(self.statistics)
            checkpoint[STATISTICS] = {name: value for name, value in state.items() if name not in settings}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.watchdog is not None and trainer.is_global_zero:
            self.watchdog.start(lambda text: send(trainer, "Training has stalled", text))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.watchdog is not None:
            self.watchdog.progress()
        self._step_loss = self._step_loss + outputs["loss"].detach()  # Lightning has divided it by their number
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return  # in the middle of a step
        if self.statistics is not None:
            assert isinstance(self._step_loss, Tensor)
            self._unread.append(self._step_loss)
        self._step_loss = 0.0
        if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._read_losses(trainer)
            self._check_speed(trainer)

    def on_validation_batch_end(self, *arguments: Any, **options: Any) -> None:
        if self.watchdog is not None:
            self.watchdog.progress()

    def _read_losses(self, trainer: pl.Trainer) -> None:
        """Look for spikes in the losses that were not read yet, as means over all processes, which must call this."""
        if not self._unread:
            return
        assert self.statistics is not None
        losses = trainer.strategy.reduce(torch.stack(self._unread), reduce_op="mean").tolist()
        first = trainer.global_step - len(losses)
        self._unread = []
        for step, loss in enumerate(losses, first):
            spike = self.statistics.add(step, loss)
            if spike is not None and trainer.is_global_zero:
                self._report(spike, trainer)

    def _report(self, spike: Spike, trainer: pl.Trainer) -> None:
        data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
        indices, epochs = data.samples_of(spike.step)
        path = self.directory / "alerts" / f"spike_step_{spike.step:07d}.json"
        write_json({**asdict(spike), "indices": indices.tolist(), "epochs": epochs.tolist()}, path)
        text = (
            f"The loss of step {spike.step} is {spike.loss:.4f}, after a mean of {spike.mean:.4f} with a standard "
            f"deviation of {spike.deviation:.4f}; {path} names the images of its batch."
        )
        send(trainer, "Loss spike", text)

    def _check_speed(self, trainer: pl.Trainer) -> None:
        """Send an alert when the MFU begins to be low."""
        if self.low_mfu is None:
            return
        mfu = float(trainer.callback_metrics.get(MFU, math.inf))
        self._slow = self._slow + 1 if mfu < self.low_mfu else 0
        if self._slow == SLOW_MEASUREMENTS and trainer.is_global_zero:
            text = f"The model FLOPs utilization is {mfu:.3f} at step {trainer.global_step}, below {self.low_mfu}."
            send(trainer, "Training is slow", text)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._stop_watching()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._stop_watching()
        if isinstance(exception, NotFiniteError):  # which the command prints
            send_alert(trainer, "Loss is not finite", str(exception), "ERROR")

    def _stop_watching(self) -> None:
        if self.watchdog is not None:
            self.watchdog.stop()


def send(trainer: pl.Trainer, title: str, text: str) -> None:
    """Warn in the log, and send W&B's alert."""
    log.warning(text)
    send_alert(trainer, title, text, "WARN")


class Watchdog:
    """A thread that reports once when there has been no progress for a time."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._ended = threading.Event()
        self._last = 0.0  # the time of the last progress
        self._reported = False

    def start(self, report: Callable[[str], None]) -> None:
        """Begin to watch; `report` is called in the thread, with a sentence."""
        self._ended.clear()
        self.progress()
        threading.Thread(target=self._watch, args=(report,), name="igpt-watchdog", daemon=True).start()

    def progress(self) -> None:
        self._last, self._reported = time.monotonic(), False

    def stop(self) -> None:
        self._ended.set()

    def _watch(self, report: Callable[[str], None]) -> None:
        while not self._ended.wait(self.seconds / 10):
            if not self._reported and time.monotonic() - self._last > self.seconds:
                self._reported = True
                report(f"No step has ended for {time_text(self.seconds)}; the run may hang.")
