"""Fully sharded training: each process keeps a part of the weights, the gradients and the optimizer's state."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_lightning.strategies import ModelParallelStrategy, ParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from igpt.model.transformer import Block, Transformer


class ShardedStrategy(ModelParallelStrategy):
    """FSDP2 over all processes, on GPUs and CPUs. The weights of a block are gathered when it is its turn.

    A checkpoint is one file with everything in it, the same as that of a training in one process, so that runs may go
    on with another number of processes, and `igpt.load` reads it.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(save_distributed_checkpoint=False, **kwargs)

    def setup_environment(self) -> None:
        self._data_parallel_size, self._tensor_parallel_size = self.num_nodes * self.num_processes, 1
        super().setup_environment()

    def setup(self, trainer: Any) -> None:
        ParallelStrategy.setup(self, trainer)  # the class between wants the objective to shard itself

    def _setup_model(self, model: nn.Module) -> nn.Module:
        mesh = self.device_mesh["data_parallel"]
        for block in [module for module in model.modules() if isinstance(module, Block)]:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        for step in ("training_step", "validation_step"):  # what gathers the weights outside of the blocks
            register_fsdp_forward_method(model, step)
        return model


def whole(value: Tensor) -> Tensor:
    """A tensor with all of its parts, if it is one that processes share. Every process must ask."""
    return value.full_tensor() if isinstance(value, DTensor) else value


@torch.no_grad()
def whole_model(model: Transformer) -> Transformer:
    """The model, or a copy with all of its weights, if it is one that processes share. Every process must ask."""
    # Between two steps, weights outside of the blocks may be whole.
    if not any(isinstance(weight, DTensor) for weight in model.parameters()):
        return model
    copy = Transformer(model.config).to(model.head.weight.device, model.head.weight.dtype)
    for mine, theirs in zip(copy.parameters(), model.parameters(), strict=True):
        mine.copy_(whole(theirs))
    return copy
