"""The configuration that a run directory keeps: what the run began with, and what was changed since."""

from __future__ import annotations

import time
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from igpt.errors import IgptError
from igpt.files import atomic_path
from igpt.run_directory import RunDirectory

Changes = dict[str, dict[str, Any]]  # dotted key -> its values "from" and "to", of which one lacks where the key did


def configuration_of(run: RunDirectory) -> DictConfig:
    """The configuration that a run is trained with: the one it began with, and all changes."""
    file = run.resumed_config if run.resumed_config.exists() else run.config
    if not file.exists():
        raise IgptError(f"{file} is missing, so the run's configuration is not known; give a whole run directory.")
    config = OmegaConf.load(file)
    assert isinstance(config, DictConfig)
    return config


def store(run: RunDirectory, config: DictConfig) -> None:
    """Write the configuration that a run begins with, the overrides that made it, and Hydra's own."""
    for old in (run.changes, run.resumed_config):
        old.unlink(missing_ok=True)
    overrides = HydraConfig.get().overrides.task
    _save({"overrides.yaml": overrides, "hydra.yaml": HydraConfig.instance().cfg, run.config.name: config}, run)


def store_changes(run: RunDirectory, config: DictConfig, changes: Changes, step: int) -> None:
    """Write what a resume changes from a step on; the configuration that the run began with stays."""
    history: Any = OmegaConf.load(run.changes) if run.changes.exists() else []
    entry = {"step": step, "time": time.strftime("%Y-%m-%d %H:%M:%S"), "changes": changes}
    _save({run.changes.name: [*history, entry], run.resumed_config.name: config}, run)


def _save(contents: dict[str, Any], run: RunDirectory) -> None:
    """Write files beside the configuration, each whole or not at all."""
    for name, content in contents.items():
        with atomic_path(run.config.with_name(name)) as temporary:
            OmegaConf.save(content if OmegaConf.is_config(content) else OmegaConf.create(content), temporary)


def difference(before: DictConfig, after: DictConfig) -> Changes:
    """Where two configurations differ, as they are written: with ${...} in place."""
    return _difference(OmegaConf.to_container(before, resolve=False), OmegaConf.to_container(after, resolve=False))


def _difference(before: Any, after: Any, prefix: str = "") -> Changes:
    found: Changes = {}
    for key in dict.fromkeys([*before, *after]):
        if key in before and key in after:
            old, new = before[key], after[key]
            if isinstance(old, dict) and isinstance(new, dict):
                found |= _difference(old, new, f"{prefix}{key}.")
            elif old != new:
                found[f"{prefix}{key}"] = {"from": old, "to": new}
        else:
            found[f"{prefix}{key}"] = {"to": after[key]} if key in after else {"from": before[key]}
    return found


def leaves(key: str, value: Any) -> list[str]:
    """The dotted keys of the single values at and below a key."""
    if not isinstance(value, dict) or not value:
        return [key]
    return [leaf for name, below in value.items() for leaf in leaves(f"{key}.{name}", below)]
