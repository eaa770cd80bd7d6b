"""Which values of a composed configuration were chosen, and which are defaults."""

from __future__ import annotations

from collections.abc import Iterable

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf


def chosen_keys(config: DictConfig, keys: Iterable[str]) -> set[str]:
    """Those of the dotted `keys` whose values were chosen: by an argument of the command or of a job of a sweep, or by
    an experiment that gives them another value than the defaults.

    To choose data or an objective by name (data=cifar10) is not to choose the values that come with it, such as the
    resolution.
    """
    hydra = HydraConfig.get()
    data = hydra.runtime.choices.get("data")
    defaults = compose(hydra.job.config_name, [] if data is None else [f"data={data}"])
    arguments = {argument.partition("=")[0].lstrip("+~") for argument in hydra.overrides.task} - {"data", "objective"}
    return {
        key
        for key in keys
        if any(is_inside(key, argument) or is_inside(argument, key) for argument in arguments)
        or OmegaConf.select(config, key) != OmegaConf.select(defaults, key)
    }


def is_inside(key: str, other: str) -> bool:
    """Whether a dotted key is another one, or below it."""
    return f"{key}.".startswith(f"{other}.")
