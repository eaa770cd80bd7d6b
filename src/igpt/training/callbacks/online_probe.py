"""The accuracy of linear probes during pre-training."""

from __future__ import annotations

from collections.abc import Sequence

import pytorch_lightning as pl
import torch
from torch import Tensor

from igpt.batch import TokenBatch
from igpt.data.datamodule import ImageDataModule
from igpt.errors import IgptError
from igpt.evaluation.labels import check_labeled
from igpt.evaluation.linear_probe import fit_lbfgs, standardize
from igpt.model.transformer import Transformer
from igpt.objectives.objective import Objective
from igpt.training.callbacks.intervals import due_at_validation


class OnlineProbe(pl.Callback):
    """At the first validation after each multiple of `every_n_steps` steps, and after the last step, fits a linear
    probe on training images and logs its accuracy on validation images, for the chosen `layers` (negative ones count
    from the end; None is all).

    The model only runs forward, without gradients or random numbers, so training is bitwise the same as without it.
    """

    needs_classes = True

    def __init__(
        self,
        every_n_steps: int,
        layers: Sequence[int] | None = None,
        n_train: int = 1000,
        n_validation: int = 500,
        penalty: float = 1e-2,
    ) -> None:
        self.every_n_steps = every_n_steps
        self.layers = layers
        self.n_train = n_train
        self.n_validation = n_validation
        self.penalty = penalty

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        last = trainer.global_step >= trainer.max_steps
        if trainer.sanity_checking or not (last or due_at_validation(trainer, self.every_n_steps)):
            return
        assert isinstance(pl_module, Objective)
        data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
        if not data.source.classes:
            raise IgptError(f"The data '{data.source.name}' has no labels, which an online probe needs.")
        check_labeled(data, "train", "validation")
        model = pl_module.trained_model()
        train, labels = self._features(pl_module, model, data, "train", self.n_train)
        validation, truth = self._features(pl_module, model, data, "validation", self.n_validation)
        train, validation = standardize(train, validation)
        (probe,) = fit_lbfgs(train, labels, len(data.source.classes), [self.penalty], max_iterations=100)
        accuracy = probe.accuracy(validation, truth)
        chosen = range(len(accuracy)) if self.layers is None else self.layers
        pl_module.log_dict({f"probe/layer_{range(len(accuracy))[i]}": float(accuracy[i]) for i in chosen})

    @torch.no_grad()
    def _features(
        self, objective: Objective, model: Transformer, data: ImageDataModule, split: str, n: int
    ) -> tuple[Tensor, Tensor]:
        """Features (L + 1, n, C) and labels (n,) of the first n labeled images in a fixed random order."""
        features, labels, seen = [], [], 0
        for batch in data.labeled_batches(split, epoch=0, activity="Probing"):
            here = TokenBatch(*(part.to(objective.device) for part in batch))
            features.append(objective.task.features(model, here, None).float())
            labels.append(here.labels)
            seen += len(here.labels)
            if seen >= n:
                break
        return torch.cat(features)[:n].transpose(0, 1), torch.cat(labels)[:n]
