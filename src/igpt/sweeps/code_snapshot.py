"""A copy of the code for the jobs of a sweep, so that what waits in a queue is not changed by an editor."""

from __future__ import annotations

import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig


class CodeSnapshot(Callback):
    """Copies the package and its configuration to `code/` in the sweep's folder; the launcher puts it first on the path
    where its jobs look for modules.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        target = Path(config.hydra.sweep.dir) / "code" / "igpt"
        ignore = shutil.ignore_patterns("__pycache__", "conf")
        shutil.copytree(folder_of("igpt"), target, ignore=ignore, dirs_exist_ok=True)
        # Of an editable installation, the configuration lies elsewhere, with a link in it.
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(folder_of("igpt.conf"), target / "conf", ignore=ignore, dirs_exist_ok=True)


def folder_of(package: str) -> Path:
    """Where a package lies on disk."""
    return Path(*import_module(package).__path__)
