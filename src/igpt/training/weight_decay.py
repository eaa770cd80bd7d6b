"""Decoupled weight decay, plain or cautious."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class WeightDecay:
    """Weights x with the update u, at the learning rate lr, become x - lr (u + rate x) (Loshchilov and Hutter 2019,
    "Decoupled Weight Decay Regularization").

    If `cautious`, the decay applies only where it does not oppose the update, u x >= 0 (Chen et al. 2025, "Cautious
    Weight Decay", arXiv 2510.12402).
    """

    rate: float = 0.0
    cautious: bool = False

    def apply(self, weights: Tensor, update: Tensor, lr: float) -> None:
        """Decay `weights` in place, before the optimizer subtracts `update`, of which only the signs count."""
        if self.rate:
            decayed = weights * (weights * update >= 0) if self.cautious else weights
            weights.sub_(decayed, alpha=lr * self.rate)


class DecayedAdam(torch.optim.Adam):
    """Adam with weight decay of those parameters that are `decayed`. It has the state of Adam, and the same order of
    parameters, so that checkpoints of sharded models are those of whole ones.
    """

    def __init__(
        self, params: Iterable[Any], decay: WeightDecay, decayed: Iterable[nn.Parameter] = (), **settings: Any
    ) -> None:
        super().__init__(params, **settings)
        self.decay = decay
        self.decayed = set(decayed)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._before_adam(group)
        super().step()
        return loss

    def _before_adam(self, group: dict[str, Any]) -> None:
        """What is done to the parameters of a group before Adam updates those that have a gradient."""
        for p in self.decayed.intersection(group["params"]) if self.decay.rate else ():
            if p.grad is not None:
                state = self.state[p]
                before = state["exp_avg"] if state else torch.zeros_like(p)
                mean = before.lerp(p.grad, 1 - group["betas"][0])  # its signs are those of Adam's update
                self.decay.apply(p, mean, group["lr"])
