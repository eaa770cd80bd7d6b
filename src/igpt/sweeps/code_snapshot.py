"""A copy of the code for the jobs of a sweep, so that later edits do not change jobs that wait in a queue."""

from __future__ import annotations

import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig


class CodeSnapshot(Callback):
    """Copies the package and its configuration to `code/` in the sweep's directory; the launcher puts that directory
    first on the PYTHONPATH of the jobs.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        target = Path(config.hydra.sweep.dir) / "code" / "igpt"
        ignore = shutil.ignore_patterns("__pycache__", "conf")
        shutil.copytree(folder_of("igpt"), target, ignore=ignore, dirs_exist_ok=True)
        # In an editable installation, the configuration is outside of the package and contains a link.
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(folder_of("igpt.conf"), target / "conf", ignore=ignore, dirs_exist_ok=True)


def folder_of(package: str) -> Path:
    """The directory of a package."""
    return Path(*import_module(package).__path__)
