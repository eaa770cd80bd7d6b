"""Samples and completions while the model learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from igpt import figures
from igpt.data.datamodule import ImageDataModule
from igpt.evaluation.final_report import drawings
from igpt.objectives.objective import Objective
from igpt.pretrained import Pretrained
from igpt.training.callbacks.validation_schedule import due_at_validation
from igpt.training.loggers.media import log_image
from igpt.training.sharded import whole_model


class SampleImages(pl.Callback):
    """Every `every_n_steps` steps (None: never), after a validation, draw: samples and completions of validation
    images, or, if the model is masked, validation images filled in.

    The completed images are of the class `label`, or of any if that is None. Always the same seed, so that two
    pictures differ only by what was learned in between.
    """

    def __init__(
        self,
        directory: str,
        every_n_steps: int | None,
        n_samples: int = 16,
        n_images: int = 6,
        n_completions: int = 4,
        label: int | None = None,
        sampling: dict[str, Any] | None = None,
    ) -> None:
        self.directory = Path(directory)
        self.every_n_steps = every_n_steps
        self.n_samples = n_samples
        self.n_images = n_images
        self.n_completions = n_completions
        self.label = label
        self.sampling = sampling or {}

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if due_at_validation(trainer, self.every_n_steps) and not trainer.sanity_checking:
            self.draw(trainer, pl_module)

    def draw(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw now, into samples/, completions/ or filled/, and hand the pictures to the trackers."""
        assert isinstance(pl_module, Objective)
        data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
        model = whole_model(pl_module.model)
        if not trainer.is_global_zero:
            return
        pretrained = Pretrained(model, data.tokenizer, pl_module.task)
        images = data.splits["validation"].choose(self.n_images, self.label)
        name = f"step_{trainer.global_step:07d}.png"
        pictures = drawings(pretrained, images, self.n_samples, self.n_completions, self.sampling)
        for kind, picture in pictures.items():
            log_image(trainer, kind, figures.save(picture, self.directory / kind / name))
        pl_module.train()
