"""What every command shares: a Hydra app whose errors are one sentence."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from igpt.errors import IgptError

Task = Callable[[DictConfig], None]

FULL_ERROR = "HYDRA_FULL_ERROR"


def run_app(task: Task, config_name: str) -> None:
    """Compose the configuration `config_name`, and run the task with it.

    What we foresaw ends with one sentence on stderr and status 1, without a traceback unless HYDRA_FULL_ERROR=1 asks
    for one. What we did not foresee is a bug, and shows where it happened.
    """
    asked_for_traceback = os.environ.get(FULL_ERROR) == "1"
    os.environ[FULL_ERROR] = "1"  # Hydra then lets errors through to us instead of printing them its own way

    def job(config: DictConfig) -> None:
        if not asked_for_traceback:
            os.environ.pop(FULL_ERROR, None)  # processes started by the task begin afresh
        try:
            task(config)
        finally:
            os.environ[FULL_ERROR] = "1"

    try:
        hydra.main(version_base="1.3", config_path="pkg://igpt.conf", config_name=config_name)(job)()
    except (IgptError, HydraException, OmegaConfBaseException) as error:
        if asked_for_traceback:
            raise
        sys.exit(f"Error: {str(error) or error.__cause__}")  # Hydra puts some of its messages into the cause
    except OSError as error:
        if asked_for_traceback or error.filename is None:
            raise
        sys.exit(f"Error: {error.filename}: {error.strerror}; choose a place that can be written, or make room there.")


def plain(config: Any) -> Any:
    """A configuration as plain dicts, lists and values, everything resolved."""
    return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
