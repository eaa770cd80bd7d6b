"""Parameters and FLOPs of a model; time, energy and price of a computation."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch.utils.flop_counter import FlopCounterMode

from igpt.errors import IgptError, in_one_line
from igpt.model.config import TransformerConfig
from igpt.model.transformer import Transformer


@dataclass(frozen=True)
class Size:
    """Numbers of parameters, and FLOPs of one image, forward and backward.

    A multiply-add is two FLOPs. Attention counts in full, which is the convention for model FLOPs utilization (MFU),
    although a causal kernel skips nearly half of it. Recomputation does not count.
    """

    parameters: int
    block_matrices: int  # parameters that are in matrices of the blocks
    linear_flops: int  # of products with weights
    attention_flops: int  # of products of activations

    @property
    def flops(self) -> int:
        return self.linear_flops + self.attention_flops

    def optimizer_values(self, name: str) -> int:
        """Numbers in the optimizer state: two per parameter for Adam, one per parameter that Muon updates."""
        return 2 * self.parameters - (self.block_matrices if name == "muon" else 0)


def measure(config: TransformerConfig) -> Size:
    """Count on the model itself, whatever its parts, on the meta device: tensors there have shapes and no values.

    Raises :class:`IgptError` if a part of the user's cannot compute there.
    """
    try:
        with torch.device("meta"):
            model = Transformer(config)
        shapes = (replace(config, n_layer=n, value_embedding=()) for n in (1, 2))  # embeddings take no FLOPs
        (linear, attention), (linear_2, attention_2) = map(count_flops, shapes)
    except Exception as error:
        if not config.other_parts:
            raise
        parts = ", ".join(f"model.{kind}={name}" for kind, name in config.other_parts.items())
        raise IgptError(
            f"The FLOPs of a model with {parts} cannot be counted, since it does not compute on torch's meta device "
            f"({in_one_line(error)}); use operations that do."
        ) from error
    more = config.n_layer - 1  # all blocks are alike
    return Size(
        parameters=sum(p.numel() for p in model.parameters()),
        block_matrices=sum(p.numel() for block in model.blocks for p in block.parameters() if p.ndim == 2),
        linear_flops=linear + more * (linear_2 - linear),
        attention_flops=attention + more * (attention_2 - attention),
    )


def count_flops(config: TransformerConfig) -> tuple[int, int]:
    """FLOPs of one image, forward and backward: of products with weights, and of products of activations."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        tokens = torch.zeros(1, config.n_positions, dtype=torch.long)
        Transformer(config)(tokens).sum().backward()
    counts = counter.get_flop_counts()["Global"]
    aten = torch.ops.aten
    linear = sum(counts.get(product, 0) for product in (aten.mm, aten.addmm))  # other products are batched
    return linear, counter.get_total_flops() - linear


@dataclass(frozen=True)
class Duration:
    """Seconds of arithmetic and of memory traffic. A device does both at once, so the longer one counts."""

    arithmetic: float
    traffic: float

    @property
    def seconds(self) -> float:
        return max(self.arithmetic, self.traffic)

    @property
    def arithmetic_bound(self) -> bool:
        return self.arithmetic >= self.traffic


def duration(flops: float, speed: float, moved: float, bandwidth: float) -> Duration:
    """Of `flops` at `speed` FLOP/s, while `moved` bytes are written once and read once at `bandwidth` bytes/s."""
    return Duration(flops / speed, 2 * moved / bandwidth)


def energy(seconds: float, devices: int, watts: float) -> float:
    """Kilowatt-hours, if every device takes `watts` all the time."""
    return devices * watts * seconds / 3.6e6


def price(seconds: float, devices: int, per_hour: float) -> float:
    """Price of `devices` for `seconds`, in the currency of `per_hour`, which is that of one device."""
    return devices * per_hour * seconds / 3600
