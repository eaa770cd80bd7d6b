"""The configuration in a run directory: the one at the start of the run, and the changes made by resumes."""

from __future__ import annotations

import time
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from igpt.errors import IgptError
from igpt.files import atomic_path
from igpt.run_directory import RunDirectory

Changes = dict[
    str, dict[str, Any]
]  # dotted key -> its values {"from": ..., "to": ...}; a key that did not exist has no value on that side


def configuration_of(run: RunDirectory) -> DictConfig:
    """The configuration that a run is trained with: the one at its start, with all later changes."""
    file = run.resumed_config if run.resumed_config.exists() else run.config
    if not file.exists():
        raise IgptError(f"{file} is missing, so the run's configuration is unknown; give a complete run directory.")
    config = OmegaConf.load(file)
    assert isinstance(config, DictConfig)
    return config


def store(run: RunDirectory, config: DictConfig) -> None:
    """Write the configuration at the start of a run, the overrides it was composed from, and Hydra's own."""
    for old in (run.changes, run.resumed_config):
        old.unlink(missing_ok=True)
    overrides = HydraConfig.get().overrides.task
    _save({"overrides.yaml": overrides, "hydra.yaml": HydraConfig.instance().cfg, run.config.name: config}, run)


def store_changes(run: RunDirectory, config: DictConfig, changes: Changes, step: int) -> None:
    """Write what a resume changes from `step` on; the configuration at the start of the run is kept."""
    history: Any = OmegaConf.load(run.changes) if run.changes.exists() else []
    entry = {"step": step, "time": time.strftime("%Y-%m-%d %H:%M:%S"), "changes": changes}
    _save({run.changes.name: [*history, entry], run.resumed_config.name: config}, run)


def _save(contents: dict[str, Any], run: RunDirectory) -> None:
    """Write files next to the configuration, each of them atomically."""
    for name, content in contents.items():
        with atomic_path(run.config.with_name(name)) as temporary:
            OmegaConf.save(content if OmegaConf.is_config(content) else OmegaConf.create(content), temporary)


def difference(before: DictConfig, after: DictConfig) -> Changes:
    """The keys in which two configurations differ; interpolations ${...} are compared as text, not resolved."""
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
