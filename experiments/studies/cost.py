"""FLOPs of a training run."""

from __future__ import annotations

from functools import cache
from threading import Lock
from typing import Any, NamedTuple

import torch
from hydra import compose, initialize_config_module
from torch.utils.flop_counter import FlopCounterMode

from igpt.commands.plan import model_of
from igpt.model.config import TransformerConfig
from igpt.model.transformer import Transformer
from igpt.planning.compute import measure
from igpt.training.optimizers import OptimConfig

# They change neither the model nor the number of images. Without them, the runs of a trial share one measurement.
IRRELEVANT = (
    "seed=",
    "trainer.",
    "optim.lr=",
    "optim.matrix_lr=",
    "optim.warmup_steps=",
    "logger=",
    "callbacks=",
    "sample_every=",
)

HYDRA = Lock()  # Hydra has one state per process, and the runs of a study end in different threads


class Costs(NamedTuple):
    """Of a training step."""

    flops: int  # of the forward and the backward pass, as igpt-plan counts them
    optimizer_flops: int  # of matrix products in the update of the weights, which only Muon has
    tokens: int

    @property
    def total_flops(self) -> int:
        return self.flops + self.optimizer_flops


def costs(overrides: tuple[str, ...]) -> Costs:
    """What a step of igpt-train with these overrides costs."""
    return _costs(tuple(override for override in overrides if not override.startswith(IRRELEVANT)))


@cache
def _costs(overrides: tuple[str, ...]) -> Costs:
    with HYDRA, initialize_config_module("igpt.conf", version_base="1.3"):
        config = compose("plan", overrides=list(overrides))
    model, images = model_of(config), config.data.batch_size
    return Costs(measure(model).flops * images, count_update(model, config.optim), images * model.n_positions)


def count_update(model: TransformerConfig, optim: Any) -> int:
    """FLOPs of an update, counted while one is computed."""
    network = Transformer(model)
    optimizer = OptimConfig(lr=1e-3, total_steps=1, name=optim.name).optimizer(network)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    with FlopCounterMode(display=False) as counter:
        optimizer.step()
    return counter.get_total_flops()
