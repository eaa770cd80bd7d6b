"""The functions that values in conf/ are computed by, as ${name:argument}. To import this module defines them."""

from __future__ import annotations

from omegaconf import OmegaConf

from igpt.metric_names import goal_of


def gpus_per_node(accelerator: str, devices: int) -> int | None:
    """How many GPUs a SLURM job of a run requests."""
    return None if accelerator == "cpu" else devices


def optuna_direction(mode: str | None) -> str:
    """Optuna's word for a `monitor_mode`. The jobs of a search refuse None."""
    return "maximize" if mode == "max" else "minimize"


for resolver in (goal_of, gpus_per_node, optuna_direction):
    OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)
