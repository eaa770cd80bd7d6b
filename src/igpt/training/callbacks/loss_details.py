"""The validation loss by position and by class, during training."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import functional as F

from igpt import figures
from igpt.batch import TokenBatch
from igpt.data.datamodule import ImageDataModule
from igpt.objectives.objective import Objective
from igpt.training.callbacks.intervals import due_at_validation
from igpt.training.loggers.media import log_image

MOST_CLASSES = 100  # of more, the losses by class are not logged


class LossDetails(pl.Callback):
    """At the first validation after each multiple of `every_n_steps` steps, measures the loss of the validation images

    by position: a heat map, position_loss/step_*.png in `directory`, the last one also in figures/;
    by class: val_class/NAME, in nats per token, if the data have classes, and not more than 100.

    The model runs a second time on the validation images, without gradients or random numbers, so training is bitwise
    the same as without it.
    """

    def __init__(self, directory: str, every_n_steps: int) -> None:
        self.directory = Path(directory)
        self.every_n_steps = every_n_steps

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._due = due_at_validation(trainer, self.every_n_steps)
        if not self._due:
            return
        assert isinstance(pl_module, Objective)
        data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
        self._classes = names_in_metrics(data.source.classes)
        self._model = pl_module.trained_model()
        zeros = torch.zeros(2, data.n_tokens + len(self._classes), device=pl_module.device)
        self._sums, self._counts = zeros  # of the nats at each position, then of those of the images of each class

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: object,
        batch: TokenBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not self._due:
            return
        assert isinstance(pl_module, Objective)
        with trainer.precision_plugin.val_step_context():
            nats = pl_module.task.token_nats(self._model, batch, mask_index=0)  # (B, T)
        by_class = classes_of(batch.labels, len(self._classes))  # (B, K)
        values = torch.cat([nats, nats.nanmean(dim=1, keepdim=True).where(by_class, torch.nan)], dim=1)
        self._sums += values.nansum(dim=0)
        self._counts += values.isfinite().sum(dim=0)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self._due:
            return
        sums, counts = trainer.strategy.reduce(torch.stack([self._sums, self._counts]), reduce_op="sum")
        means = sums / counts  # NaN where nothing was measured
        n_tokens = len(means) - len(self._classes)
        self._by_position = means[:n_tokens].cpu()
        by_class = dict(zip(self._classes, means[n_tokens:], strict=True))
        pl_module.log_dict({f"val_class/{name}": loss for name, loss in by_class.items() if loss.isfinite()})
        del self._model

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not (self._due and trainer.is_global_zero):
            return
        data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
        by_pixel = data.tokenizer.arrange(self._by_position[None])[0].nanmean(dim=-1)  # (side, side)
        figure = figures.heat_map(by_pixel.numpy(), "nats per token")
        path = self.directory / "position_loss" / f"step_{trainer.global_step:07d}.png"
        log_image(trainer, "position_loss", figures.save(figure, path))
        figures.save(figure, self.directory / "figures" / "position_loss.png")


def classes_of(labels: Tensor, n: int) -> Tensor:
    """Whether an image (B,) is of a class, (B, n) bool; those without a label (-1) are of none."""
    return F.one_hot(labels.clamp(max=n) + 1, n + 2)[:, 1 : n + 1].bool()


def names_in_metrics(classes: Sequence[str]) -> list[str]:
    """Names of classes as parts of names of metrics; none if there are too many classes."""
    if len(classes) > MOST_CLASSES:
        return []
    names = [re.sub(r"\W+", "_", name).strip("_") for name in classes]
    unique = len(set(names)) == len(names) and all(names)
    return names if unique else [f"{i}_{name}" for i, name in enumerate(names)]
