"""Muon (Jordan et al. 2024) for the matrices of the blocks, Adam for everything else, as one optimizer."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, distributed, nn

from igpt.training.weight_decay import DecayedAdam, WeightDecay

# Coefficients of the quintic Newton-Schulz iteration, as chosen by Muon's authors: five steps bring every singular
# value into about [0.7, 1.2].
QUINTIC = (3.4445, -4.7750, 2.0315)
FIRST_MOMENTUM = 0.85  # at the beginning of a warm-up of the momentum


def orthogonalize(matrices: Tensor, steps: int = 5, bfloat16: bool = False) -> Tensor:
    """Matrices (n, rows, columns) with about the same singular vectors and all singular values near 1.

    In bfloat16 on GPUs, as proposed, and if `bfloat16`; otherwise in float32, as most CPUs have no such arithmetic. The
    result has this type, too.
    """
    a, b, c = QUINTIC
    x = matrices.to(torch.bfloat16 if bfloat16 or matrices.is_cuda else torch.float32)
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


def orthogonalize_together(matrices: Tensor, bfloat16: bool = False) -> Tensor:
    """:func:`orthogonalize` of matrices that all processes of the process group have: each does its share of them, and
    sends the result to the others. All processes must call this, and get bitwise the same.
    """
    if not distributed.is_initialized() or (processes := distributed.get_world_size()) == 1:
        return orthogonalize(matrices, bfloat16=bfloat16)
    each = -(-len(matrices) // processes)
    mine = orthogonalize(matrices[distributed.get_rank() * each :][:each], bfloat16=bfloat16)
    share = mine.new_zeros(each, *mine.shape[1:])  # the last processes may have less to do than the others
    share[: len(mine)] = mine
    shares = [torch.empty_like(share) for _ in range(processes)]
    distributed.all_gather(shares, share)
    return torch.cat(shares)[: len(matrices)]


class MuonAdam(DecayedAdam):
    """Adam, except for parameter groups with `matrices`, which Muon updates: each parameter is so many matrices, one
    above the other (3: those of queries, keys and values), which are updated separately.

    A Muon update is the Nesterov momentum of the gradient, orthogonalized and scaled by max(1, rows / columns)^0.5.

    In the first `warmup_steps` steps, the momentum rises linearly from 0.85, or stays if it is below that. `bfloat16`
    is the precision of the products that orthogonalize an update.

    Processes that have the same weights and gradients (DDP) share the work of orthogonalization.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        lr: float,
        betas: tuple[float, float],
        momentum: float = 0.95,
        warmup_steps: int = 0,
        decay: WeightDecay | None = None,
        bfloat16: bool = False,
    ) -> None:
        groups = [{"matrices": 0, **group} for group in groups]
        super().__init__(groups, decay or WeightDecay(), lr=lr, betas=betas)
        self.momentum = momentum
        self.warmup_steps = warmup_steps
        self.bfloat16 = bfloat16

    def momentum_at(self, step: int) -> float:
        """The momentum of a step, counted from 0."""
        if step >= self.warmup_steps:
            return self.momentum
        first = min(FIRST_MOMENTUM, self.momentum)
        return first + (self.momentum - first) * step / self.warmup_steps

    def _before_adam(self, group: dict[str, Any]) -> None:
        if group["matrices"]:
            self._muon(group)

    def _muon(self, group: dict[str, Any]) -> None:
        by_shape: dict[torch.Size, list[tuple[nn.Parameter, Tensor]]] = defaultdict(list)
        for p in group["params"]:
            if p.grad is None:
                continue
            state = self.state[p]
            if not state:
                # Adam's code for loading needs a step count in every state.
                state.update(step=torch.tensor(0.0), momentum=torch.zeros_like(p))
            momentum = self.momentum_at(int(state["step"]))
            state["step"] += 1
            state["momentum"].lerp_(p.grad, 1 - momentum)
            update = p.grad.lerp(state["momentum"], momentum)
            parts = update.unflatten(0, (group["matrices"], -1))  # (n, rows, columns)
            by_shape[parts.shape].append((p, parts))
            p.grad = None  # so that Adam skips it
        for shape, updates in by_shape.items():
            scale = max(1.0, shape[-2] / shape[-1]) ** 0.5
            stack = torch.cat([parts for _, parts in updates])
            orthogonal = orthogonalize_together(stack, self.bfloat16)
            for (p, _), parts in zip(updates, orthogonal.split(shape[0]), strict=True):
                update = parts.to(p.dtype).reshape(p.shape)
                self.decay.apply(p, update, group["lr"])
                p.add_(update, alpha=-group["lr"] * scale)
