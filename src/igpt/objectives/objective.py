"""What the objectives share: a model, a pre-training task, logging, and asking for an optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import Tensor
from torch.distributed.fsdp import register_fsdp_forward_method
from torchmetrics import MeanMetric

from igpt.batch import TokenBatch
from igpt.model.sharding import gathered, shard
from igpt.model.transformer import Transformer
from igpt.objectives.tasks import Task

ConfigureOptimizers = Callable[[torch.nn.Module], dict[str, Any]]


class Objective(pl.LightningModule):
    """Pre-training: the loss is the task's, in nats per token.

    What is logged are means over the images of the global batch, or of the whole validation split, however they are cut
    into processes and micro-batches. (Lightning's own mean over processes is off where their shares differ by one.)

    `configure` makes the optimizer and the schedule from a module, in the form Lightning's `configure_optimizers`
    returns.
    """

    validation_means: dict[str, MeanMetric]  # an nn.ModuleDict

    def __init__(self, model: Transformer, configure: ConfigureOptimizers, task: Task) -> None:
        super().__init__()
        self.model = model
        self.task = task
        self._configure = configure
        self.validation_means = torch.nn.ModuleDict({"nats": MeanMetric()})  # type: ignore[assignment]
        self._collected: list[dict[str, Tensor]] = []

    def training_step(self, batch: TokenBatch, batch_idx: int) -> Tensor:
        nats = self.task.run(self.model, batch).nats.mean()
        self.collect(loss=nats, nats=nats)
        return nats

    def validation_step(self, batch: TokenBatch, batch_idx: int) -> None:
        self.validation_means["nats"].update(self.task.run(self.model, batch, draw=0).nats)

    def on_validation_epoch_end(self) -> None:
        self.log_dict(as_logged("val", **{name: mean.compute() for name, mean in self.validation_means.items()}))
        for mean in self.validation_means.values():
            mean.reset()

    def collect(self, **values: Tensor) -> None:
        """Keep a micro-batch's values until the optimizer's step, when the global batch's means are logged."""
        self._collected.append({name: value.detach() for name, value in values.items()})

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if (self.global_step + 1) % every == 0:  # the steps whose values are written
            names = self._collected[0]
            means = {name: torch.stack([part[name] for part in self._collected]).mean() for name in names}
            self.log_dict(as_logged("train", **means), sync_dist=True)
            gradients = [p.grad for p in self.parameters() if p.grad is not None]
            norm = torch.nn.utils.get_total_norm(gradients)
            self.log("train/grad_norm", gathered(norm))
            self.log("train/lr", optimizer.param_groups[0]["lr"])
        self._collected.clear()

    def configure_model(self) -> None:
        """Lightning's hook: shard the weights, where the strategy is to share one model among all processes."""
        strategy = self.trainer.strategy
        if isinstance(strategy, ModelParallelStrategy):
            shard(self, strategy.root_device.type)
            for step in ("training_step", "validation_step"):  # each gathers the weights outside of the blocks
                register_fsdp_forward_method(self, step)

    def configure_optimizers(self) -> Any:
        return self._configure(self)


def as_logged(stage: str, nats: Tensor, **others: Tensor) -> dict[str, Tensor]:
    """Values under the names they are logged with: nats per token in bits, too."""
    values = {"nats_per_token": nats, "bits_per_token": nats / math.log(2), **others}
    return {f"{stage}/{name}": value for name, value in values.items()}
