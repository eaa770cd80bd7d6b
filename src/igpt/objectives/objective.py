"""The LightningModule that trains a model on a task: steps, validation, logging, and the optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import Tensor
from torch.distributed.fsdp import register_fsdp_forward_method
from torchmetrics import MeanMetric

from igpt.batch import TokenBatch
from igpt.model.sharding import gathered, gathered_model, shard, with_weights
from igpt.model.transformer import Transformer
from igpt.objectives.tasks import Task

ConfigureOptimizers = Callable[[torch.nn.Module], dict[str, Any]]


class Objective(pl.LightningModule):
    """Trains `model`, and the head that the task may have, on any `task`.

    All logged values are means over the images of the global batch, or of the whole validation split, however these are
    cut into processes and micro-batches. (Lightning's own mean over processes is wrong where their shares differ.)

    `configure` makes the optimizer and the schedule from a module, in the form that Lightning's `configure_optimizers`
    returns.
    """

    validation_means: Mapping[str, MeanMetric]  # an nn.ModuleDict

    def __init__(self, model: Transformer, task: Task, configure: ConfigureOptimizers, n_classes: int = 0) -> None:
        super().__init__()
        self.model = model
        self.task = task
        self.head = task.make_head(model.config, n_classes)
        self._configure = configure
        means = {name: MeanMetric(nan_strategy="disable") for name in task.measures}  # a NaN must be seen
        self.validation_means = torch.nn.ModuleDict(means)  # type: ignore[assignment]
        self._collected: list[dict[str, Tensor]] = []  # of the micro-batches since the optimizer's last step

    def training_step(self, batch: TokenBatch, batch_idx: int) -> Tensor:
        loss, logged = self.task.losses_at(self.global_step, self.model, self.head, batch)
        self._collected.append({name: value.detach() for name, value in {"loss": loss, **logged}.items()})
        return loss

    def validation_step(self, batch: TokenBatch, batch_idx: int) -> None:
        for name, values in self.task.measure(self.model, self.head, batch).items():
            self.validation_means[name].update(values)

    def on_validation_epoch_end(self) -> None:
        self.log_dict(as_logged("val", {name: mean.compute() for name, mean in self.validation_means.items()}))
        for mean in self.validation_means.values():
            mean.reset()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if (self.global_step + 1) % every == 0:  # the steps whose values are written
            names = self._collected[0]
            means = {name: torch.stack([part[name] for part in self._collected]).mean() for name in names}
            self.log_dict(as_logged("train", means), sync_dist=True)
            gradients = [p.grad for p in self.parameters() if p.grad is not None]
            norm = torch.nn.utils.get_total_norm(gradients)
            self.log("train/grad_norm", gathered(norm))
            self.log("train/lr", optimizer.param_groups[0]["lr"])
        self._collected.clear()

    def trained_model(self) -> Transformer:
        """The model as it is evaluated, with all of its weights, and those that were trained beside it where the task
        merges them. It may be a copy. All processes must call this.
        """
        model = gathered_model(self.model)
        weights = {f"model.{name}": weight for name, weight in model.state_dict().items()}
        if self.head is not None:
            weights |= {f"head.{name}": gathered(weight) for name, weight in self.head.state_dict().items()}
        _, trained = self.task.trained(weights)
        if all(trained[name] is weight for name, weight in weights.items() if name.startswith("model.")):
            return model
        return with_weights(model, {name[6:]: w for name, w in trained.items() if name.startswith("model.")})

    def configure_model(self) -> None:
        """Lightning's hook: shard the weights, where the strategy is to share one model among all processes."""
        strategy = self.trainer.strategy
        if isinstance(strategy, ModelParallelStrategy):
            shard(self, strategy.root_device.type)
            for step in ("training_step", "validation_step"):  # each gathers the weights outside of the blocks
                register_fsdp_forward_method(self, step)

    def configure_optimizers(self) -> Any:
        return self._configure(self)


def as_logged(stage: str, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Values under the names they are logged with; nats per token in bits as well."""
    bits = {"bits_per_token": values["nats_per_token"] / math.log(2)} if "nats_per_token" in values else {}
    return {f"{stage}/{name}": value for name, value in {**values, **bits}.items()}
