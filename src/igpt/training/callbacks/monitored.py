"""The value by which a run is judged: configuration key `monitor`."""

from __future__ import annotations

import pytorch_lightning as pl

from igpt.errors import IgptError


def monitored_value(trainer: pl.Trainer, name: str) -> float:
    """The value of `name` at the last validation; an :class:`IgptError` if no validation measures it."""
    if name not in trainer.callback_metrics:
        measured = sorted(metric for metric in trainer.callback_metrics if not metric.startswith("train/"))
        raise IgptError(f"monitor is '{name}', which no validation measures; choose one of {', '.join(measured)}.")
    return float(trainer.callback_metrics[name])
