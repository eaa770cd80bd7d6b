"""Fully sharded training (FSDP2): each process keeps a part of the weights, the gradients and the optimizer's state."""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from igpt.model.transformer import Block, Transformer


def shard(module: nn.Module, device_type: str) -> None:
    """Divide the weights of a module, in place, among all processes; `device_type` is cpu or cuda.

    The weights of a block are gathered while it computes; all other weights while the module computes.
    """
    mesh = init_device_mesh(device_type, (distributed.get_world_size(),))
    for block in [part for part in module.modules() if isinstance(part, Block)]:
        fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)


def gathered(value: Tensor) -> Tensor:
    """The whole of a tensor that may be sharded. All processes must call this."""
    return value.full_tensor() if isinstance(value, DTensor) else value


@torch.no_grad()
def gathered_model(model: Transformer) -> Transformer:
    """The model itself, or, if its weights are sharded, a copy with all of them. All processes must call this."""
    # Some weights outside of the blocks may still be gathered between two steps, so all of them are looked at.
    if not any(isinstance(weight, DTensor) for weight in model.parameters()):
        return model
    return with_weights(model, {name: gathered(part) for name, part in model.state_dict().items()})


def with_weights(model: Transformer, weights: dict[str, Tensor]) -> Transformer:
    """A model like this one that has other weights, those of a state dict. No random number of the run is used."""
    with torch.random.fork_rng(devices=[]):
        copy = Transformer(model.config, model.coordinates).to(model.head.weight.device, model.head.weight.dtype)
    copy.load_state_dict(weights)
    return copy.train(model.training)
