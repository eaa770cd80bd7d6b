"""Samples and completions during training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from igpt import figures
from igpt.data.datamodule import ImageDataModule
from igpt.evaluation.sample_figures import sample_figures
from igpt.generation.sampling_config import SamplingConfig
from igpt.objectives.objective import Objective
from igpt.pretrained import Pretrained
from igpt.training.callbacks.intervals import due_at_validation
from igpt.training.loggers.media import log_image


class SampleImages(pl.Callback):
    """Every `every_n_steps` steps (None: never), after a validation, generate samples and completions of validation
    images, or, with a masked model, fill in validation images.

    The completed images are of the class `image_class`, or of any class if that is None. The seed is always the same,
    so that two figures differ only by what was learned in between. `sampling` has the settings of
    :class:`~igpt.generation.sampling_config.SamplingConfig`.
    """

    def __init__(
        self,
        directory: str,
        every_n_steps: int | None,
        n_samples: int = 16,
        n_images: int = 6,
        n_completions: int = 4,
        image_class: int | None = None,
        sampling: dict[str, Any] | None = None,
    ) -> None:
        self.directory = Path(directory)
        self.every_n_steps = every_n_steps
        self.n_samples = n_samples
        self.n_images = n_images
        self.n_completions = n_completions
        self.image_class = image_class
        self.sampling = SamplingConfig(**sampling or {})

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        assert isinstance(pl_module, Objective)
        self.sampling.check_applicable(pl_module.model.config.causal)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if due_at_validation(trainer, self.every_n_steps):
            self.sample(trainer, pl_module)

    def sample(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Sample now; write the figures into samples/, completions/ or filled/, and hand them to the trackers."""
        assert isinstance(pl_module, Objective)
        data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
        model = pl_module.trained_model()
        if not trainer.is_global_zero:
            return
        pretrained = Pretrained(model, data.tokenizer, pl_module.task)
        images = data.splits["validation"].choose(self.n_images, self.image_class)
        generated = sample_figures(pretrained, images, self.n_samples, self.n_completions, self.sampling)
        for kind, figure in generated.items():
            path = self.directory / kind / f"step_{trainer.global_step:07d}.png"
            log_image(trainer, kind, figures.save(figure, path))
