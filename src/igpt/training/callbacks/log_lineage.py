"""What a run uses, as artifacts in W&B."""

from __future__ import annotations

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from igpt.data.datamodule import ImageDataModule
from igpt.run_directory import RunDirectory
from igpt.training.loggers.wandb_tracker import WandbTracker


class LogLineage(Callback):
    """Logs data, palette and the model that a run starts from when training begins."""

    def __init__(self, run: RunDirectory, data: ImageDataModule, init_from: str | None) -> None:
        self.run = run
        self.data = data
        self.init_from = init_from

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, WandbTracker) and trainer.is_global_zero:
                logger.artifacts.log_inputs(self.data.packed_folders(), self.run.palette, self.init_from)
