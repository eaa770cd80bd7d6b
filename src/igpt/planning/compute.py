"""Parameters and FLOPs of a model, and the time, energy and money that a training with it takes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch.utils.flop_counter import FlopCounterMode

from igpt.model.config import TransformerConfig
from igpt.model.transformer import Transformer


@dataclass(frozen=True)
class Size:
    """Parameters, those of them in the blocks' matrices, and FLOPs of one image forward and backward.

    A multiplication with its addition is two. Attention counts in full, as is the convention for utilization, though
    a causal kernel leaves out nearly half of it; nothing that is calculated again counts.
    """

    parameters: int
    block_matrices: int
    linear_flops: int
    attention_flops: int

    @property
    def flops(self) -> int:
        return self.linear_flops + self.attention_flops

    def optimizer_values(self, name: str) -> int:
        """Numbers the optimizer remembers: two a parameter for Adam; one for those that Muon moves."""
        return 2 * self.parameters - (self.block_matrices if name == "muon" else 0)


def measure(config: TransformerConfig) -> Size:
    """Count on the model itself, on the meta device: it has shapes and no values, and takes no memory."""
    with torch.device("meta"):
        model = Transformer(config)
    (linear, attention), (linear_2, attention_2) = (count_flops(replace(config, n_layer=n)) for n in (1, 2))
    more = config.n_layer - 1  # all blocks are alike
    return Size(
        parameters=sum(p.numel() for p in model.parameters()),
        block_matrices=sum(p.numel() for block in model.blocks for p in block.parameters() if p.ndim == 2),
        linear_flops=linear + more * (linear_2 - linear),
        attention_flops=attention + more * (attention_2 - attention),
    )


def count_flops(config: TransformerConfig) -> tuple[int, int]:
    """FLOPs of an image, forward and backward: of the products with weights, and of those of attention."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        tokens = torch.zeros(1, config.n_positions, dtype=torch.long)
        Transformer(config)(tokens).sum().backward()
    linear = counter.get_flop_counts()["Global"][torch.ops.aten.mm]  # weights are matrices; attention is batched
    return linear, counter.get_total_flops() - linear


@dataclass(frozen=True)
class Duration:
    """Seconds of calculating and of moving memory; a device does both at once, so the longer one counts."""

    arithmetic: float
    traffic: float

    @property
    def seconds(self) -> float:
        return max(self.arithmetic, self.traffic)

    @property
    def arithmetic_bound(self) -> bool:
        return self.arithmetic >= self.traffic


def duration(flops: float, speed: float, moved: float, bandwidth: float) -> Duration:
    """Of `flops` at `speed` a second, while `moved` bytes are written once and read once at `bandwidth` a second."""
    return Duration(flops / speed, 2 * moved / bandwidth)


def energy(seconds: float, devices: int, watts: float) -> float:
    """Kilowatt-hours, if every device draws `watts` all the time."""
    return devices * watts * seconds / 3.6e6


def price(seconds: float, devices: int, per_hour: float) -> float:
    """Of `devices`, in the currency of `per_hour`."""
    return devices * per_hour * seconds / 3600
