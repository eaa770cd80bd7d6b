"""The norms of gradients and updates by layer, during training."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from igpt.model.sharding import gathered
from igpt.training.callbacks.intervals import due_at_step


class LayerNorms(pl.Callback):
    """At the first logged step after each multiple of `every_n_steps` steps, logs for each block, for the embeddings
    and for what follows the blocks:

    gradients/block_3: the norm of the gradient, before it is clipped.
    updates/block_3: the norm of the step's update, divided by the norm of the weights before it.

    Such a step keeps a copy of the weights until its end. Training is bitwise the same as without it.
    """

    def __init__(self, every_n_steps: int) -> None:
        self.every_n_steps = every_n_steps
        # While a step is measured:
        self._before: dict[str, list[Tensor]] = {}  # the weights
        self._gradients: dict[str, Tensor] = {}  # the norms

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if not due_at_step(trainer, self.every_n_steps):
            return
        parts = weights_by_part(pl_module)
        self._before = {name: [p.detach().clone() for p in weights] for name, weights in parts.items()}
        gradients = {name: [p.grad for p in weights if p.grad is not None] for name, weights in parts.items()}
        self._gradients = {f"gradients/{name}": norm(tensors) for name, tensors in gradients.items()}

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self._before:
            return
        values = self._gradients
        for name, weights in weights_by_part(pl_module).items():
            before = self._before[name]
            updates = [p.detach() - old for p, old in zip(weights, before, strict=True)]
            values[f"updates/{name}"] = norm(updates) / norm(before)
        self._before = {}
        # The weights of a part may all be zero, as those of a new classifier.
        numbers = {name: number for name, value in values.items() if math.isfinite(number := float(value))}
        for logger in trainer.loggers:  # Lightning's own `log` would repeat these values at the next logged steps
            logger.log_metrics(numbers, trainer.global_step - 1)


def weights_by_part(objective: nn.Module) -> dict[str, list[nn.Parameter]]:
    """The trained weights of each part of an :class:`~igpt.objectives.objective.Objective`."""
    found: dict[str, list[nn.Parameter]] = defaultdict(list)
    for name, weight in objective.named_parameters():
        if weight.requires_grad:
            found[part_of(name)].append(weight)
    return dict(found)


def part_of(name: str) -> str:
    """The part that the parameter with this name belongs to."""
    words = name.split(".")
    if words[:2] == ["model", "blocks"]:
        return f"block_{words[2]}"
    if words[0] == "head":
        return "task_head"
    return "head" if words[1] in ("norm", "head") else "embeddings"


def norm(tensors: list[Tensor]) -> Tensor:
    """The Euclidean norm () of all elements of tensors, which may be sharded: all processes must call this."""
    return gathered(torch.nn.utils.get_total_norm(tensors))
