"""Optimizers and learning-rate schedules."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any

import torch
from pytorch_lightning.utilities import rank_zero_only
from torch import nn

from igpt.errors import IgptError
from igpt.training.muon import MuonAdam
from igpt.training.weight_decay import DecayedAdam, WeightDecay

log = logging.getLogger(__name__)

SCHEDULES = ("cosine", "linear", "wsd", "constant")


@dataclass(frozen=True)
class OptimConfig:
    """Settings of the optimizer. `name` is adam (the paper's) or muon.

    Muon updates the matrices of the blocks with the rate `matrix_lr`; Adam updates all other weights with `lr`. The
    momentum of Muon rises to `momentum` in the first `momentum_warmup_steps` steps.

    The `schedule` is a linear warm-up, and then one of the following, which all but the last end at 0 at `total_steps`
    if these are more than the `warmup_steps`:
    half a cosine; a line; wsd (warm-up, stable, decay), a constant that decays as 1 - sqrt in the last `decay_share` of
    `total_steps` (Haegele et al. 2024, "Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations"); a
    constant.

    The matrices of the blocks decay by `weight_decay` times their learning rate per step, if `cautious_decay` only
    where the update has the same sign (:class:`~igpt.training.weight_decay.WeightDecay`).
    """

    lr: float
    total_steps: int
    name: str = "adam"
    betas: tuple[float, float] = (0.9, 0.95)
    warmup_steps: int = 0
    schedule: str = "cosine"
    decay_share: float = 0.2
    matrix_lr: float = 0.02
    momentum: float = 0.95
    momentum_warmup_steps: int = 0
    weight_decay: float = 0.0
    cautious_decay: bool = False
    bfloat16: bool = False  # also Muon's products, in a run that trains in bf16-mixed

    def __post_init__(self) -> None:
        for name, known in (("name", ("adam", "muon")), ("schedule", SCHEDULES)):
            if getattr(self, name) not in known:
                raise IgptError(f"optim.{name} is '{getattr(self, name)}'; choose one of {', '.join(known)}.")

    def configure(self, model: nn.Module) -> dict[str, Any]:
        """The optimizer and the schedule, as Lightning's `configure_optimizers` returns them. A checkpoint restores the
        moments and the step. All settings, and so the rate of each step, are those of this configuration.
        """
        if self.schedule != "constant" and self.warmup_steps >= self.total_steps:
            rank_zero_only(log.warning)(
                "The warm-up of %d steps is as long as the schedule of %d, so the learning rate does not decay; "
                "lower optim.warmup_steps.", self.warmup_steps, self.total_steps,
            )  # fmt: skip
        optimizer = self.optimizer(model)
        optimizer.register_load_state_dict_pre_hook(keep_settings)
        schedule = Schedule(optimizer, self.lr_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        betas, decay = (self.betas[0], self.betas[1]), WeightDecay(self.weight_decay, self.cautious_decay)
        named = {name: p for name, p in model.named_parameters() if "blocks" in name and p.ndim == 2}
        matrices = list(named.values())
        if self.name == "muon":
            of_muon, stacked = set(matrices), [p for name, p in named.items() if is_stacked(name, p)]
            groups: list[dict[str, Any]] = [
                {"params": [p for p in model.parameters() if p not in of_muon]},
                {"params": [p for p in matrices if p not in set(stacked)], "lr": self.matrix_lr, "matrices": 1},
                {"params": stacked, "lr": self.matrix_lr, "matrices": 3},
            ]
            return MuonAdam(groups, self.lr, betas, self.momentum, self.momentum_warmup_steps, decay, self.bfloat16)
        on_gpu = all(p.is_cuda for p in model.parameters())
        adam = DecayedAdam(model.parameters(), decay, matrices, lr=self.lr, betas=betas, fused=on_gpu or None)
        # Let Lightning unscale the gradients in fp16; otherwise it refuses to clip them.
        adam._step_supports_amp_scaling = False  # type: ignore[attr-defined]
        return adam

    def lr_factor(self, step: int) -> float:
        """The factor of the learning rates at a step, counted from 0."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.schedule == "constant":
            return 1.0
        start = self.warmup_steps
        if self.schedule == "wsd":
            start = max(start, round((1 - self.decay_share) * self.total_steps))
        done = min(1.0, max(0, step - start) / max(1, self.total_steps - start))
        if self.schedule == "wsd":
            return 1 - math.sqrt(done)
        return 1 - done if self.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))


class Schedule(torch.optim.lr_scheduler.LambdaLR):
    """A LambdaLR of which a checkpoint holds only the step."""

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.last_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.last_epoch = state_dict["step"]
        for group, rate, factor in zip(self.optimizer.param_groups, self.base_lrs, self.lr_lambdas, strict=True):
            group["lr"] = rate * factor(self.last_epoch)


def is_stacked(name: str, weight: torch.Tensor) -> bool:
    """Whether a weight of a block is three matrices, one above the other: those of queries, keys and values."""
    return name.endswith("attn.qkv.weight") and weight.shape[0] == 3 * weight.shape[1]


def keep_settings(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> dict[str, Any]:
    """The saved state of an optimizer, but with the settings (rates, betas) that `optimizer` has."""
    if len(saved["param_groups"]) != len(optimizer.param_groups):
        raise IgptError(
            "The checkpoint is from a version of igpt that divides the weights among the optimizers in another way; "
            "resume the run with that version, or begin a new one from its weights with init_from=."
        )
    groups = [
        {**current, "params": group["params"]}
        for current, group in zip(optimizer.param_groups, saved["param_groups"], strict=True)
    ]
    return {**saved, "param_groups": groups}
