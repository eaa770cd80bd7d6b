"""What the objectives share: a model, a pre-training task, logging, and asking for an optimiser."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from igpt.batch import TokenBatch
from igpt.model.transformer import Transformer
from igpt.objectives.tasks import Task

ConfigureOptimizers = Callable[[torch.nn.Module], dict[str, Any]]


class Objective(pl.LightningModule):
    """Pre-training: the loss is the task's, in nats per token.

    `configure` makes the optimiser and the schedule from a module, in the form Lightning's `configure_optimizers`
    returns.
    """

    def __init__(self, model: Transformer, configure: ConfigureOptimizers, task: Task) -> None:
        super().__init__()
        self.model = model
        self.task = task
        self._configure = configure

    def training_step(self, batch: TokenBatch, batch_idx: int) -> Tensor:
        loss = self.task.run(self.model, batch).nats.mean()
        self.log_nats("train", loss, len(batch.tokens))
        return loss

    def validation_step(self, batch: TokenBatch, batch_idx: int) -> None:
        self.log_nats("val", self.task.run(self.model, batch, draw=0).nats.mean(), len(batch.tokens))

    def log_nats(self, stage: str, nats: Tensor, batch_size: int) -> None:
        """Log nats and bits per token; over a whole validation split they are exact means over its images."""
        values = {f"{stage}/nats_per_token": nats.detach(), f"{stage}/bits_per_token": nats.detach() / math.log(2)}
        self.log_dict(values, batch_size=batch_size, sync_dist=stage == "val")

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if (self.global_step + 1) % every == 0:  # the steps whose values are written
            gradients = [p.grad for p in self.parameters() if p.grad is not None]
            self.log("train/grad_norm", torch.nn.utils.get_total_norm(gradients))
            self.log("train/lr", optimizer.param_groups[0]["lr"])

    def configure_optimizers(self) -> Any:
        return self._configure(self)
