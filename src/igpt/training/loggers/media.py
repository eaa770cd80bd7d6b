"""What loggers take in different ways: images, tables, the summary of a run, the results of a probe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from PIL import Image
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger

from igpt.evaluation.evaluator import Evaluation
from igpt.metric_names import LAYER
from igpt.training.loggers.wandb_tracker import WandbTracker


def log_image(trainer: pl.Trainer, name: str, path: Path) -> None:
    """Log a PNG file to W&B and TensorBoard, beside the values of the last step."""
    for logger in trainer.loggers:
        _log_image(logger, name, path, trainer.global_step - 1)


def _log_image(logger: Logger, name: str, path: Path, step: int | None) -> None:
    if isinstance(logger, WandbLogger):
        logger.log_image(name, [str(path)], step=step)
    elif isinstance(logger, TensorBoardLogger):
        logger.experiment.add_image(name, np.asarray(Image.open(path)), step, dataformats="HWC")


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


def log_evaluation(logger: Logger, evaluation: Evaluation, figures: Mapping[str, Path], step: int | None) -> None:
    """Log what evaluators measured: the values of a split, tables, and `figures`, the PNG files by their names."""
    logger.log_metrics({name: value for name, value in evaluation.values.items() if "/" in name}, step)
    for name, path in figures.items():
        _log_image(logger, f"figures/{name}", path, step)
    if isinstance(logger, WandbTracker):
        for name, table in evaluation.tables.items():
            logger.log_rows(f"tables/{name}", table, step)
        if "confusion" in evaluation.tables:
            logger.log_confusion("tables/confusion_matrix", evaluation.tables["confusion"], step)


def log_probe(logger: Logger, rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any], figure: Path) -> None:
    """Log the table of a probe, as one curve over the layers for each kind of features, and its figure. The `summary`
    has what is reported of each kind.
    """
    for row in rows:
        scores = {name: value for name, value in row.items() if name.endswith("accuracy")}
        kind = str(row["features"]).replace(" ", "_")
        step = None if isinstance(logger, WandbTracker) else row["layer"]  # W&B has the layer as its x axis
        logger.log_metrics({LAYER: row["layer"], **{f"probe/{kind}/{k}": v for k, v in scores.items()}}, step)
    _log_image(logger, "figures/probe", figure, None)
    if isinstance(logger, WandbTracker):
        logger.log_lines("probe/accuracy_by_layer", *lines_by_layer(rows), "Test accuracy of linear probes", "layer")
        logger.log_summary({name.replace(" ", "_"): value for name, value in summary.items()})


def lines_by_layer(rows: Sequence[Mapping[str, Any]]) -> tuple[list[list[int]], list[list[float]], list[str]]:
    """Layers, test accuracies and name of the line of each kind of features; one without layers has a flat line."""
    last = max(row["layer"] for row in rows)
    kinds = list(dict.fromkeys(str(row["features"]) for row in rows))
    xs, ys = [], []
    for kind in kinds:
        of_kind = [row for row in rows if row["features"] == kind]
        flat = len(of_kind) == 1
        xs.append([0, last] if flat else [int(row["layer"]) for row in of_kind])
        ys.append([float(row["test_accuracy"]) for row in of_kind] * (2 if flat else 1))
    return xs, ys, kinds
