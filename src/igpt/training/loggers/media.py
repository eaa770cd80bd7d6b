"""What loggers take in different ways: images, the summary of a run, the table of a probe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from PIL import Image
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger

from igpt.training.loggers.wandb_tracker import WandbTracker


def log_image(trainer: pl.Trainer, name: str, path: Path) -> None:
    """Log a PNG file to W&B and TensorBoard, beside the values of the last step."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(name, [str(path)], step=None)
        elif isinstance(logger, TensorBoardLogger):
            pixels = np.asarray(Image.open(path))
            logger.experiment.add_image(name, pixels, trainer.global_step - 1, dataformats="HWC")


def log_summary(trainer: pl.Trainer, values: dict[str, Any]) -> None:
    """Log what W&B shows beside a run in its table of runs."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbTracker):
            logger.log_summary(values)


def send_alert(trainer: pl.Trainer, title: str, text: str, level: str) -> None:
    """Send an alert through W&B; its level is INFO, WARN or ERROR."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbTracker):
            logger.send_alert(title, text, level)


def log_probe(logger: Logger, rows: list[dict[str, Any]], figure: Path) -> None:
    """Log the table of a probe, as one curve over the layers for each kind of features, and its figure."""
    for row in rows:
        scores = {name: value for name, value in row.items() if name.endswith("accuracy")}
        kind = str(row["features"]).replace(" ", "_")
        logger.log_metrics({"probe/layer": row["layer"], **{f"probe/{kind}/{k}": v for k, v in scores.items()}})
    if isinstance(logger, WandbLogger):
        logger.log_image("probe", [str(figure)])
