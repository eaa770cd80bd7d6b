"""Folders that are named after the time, of which no two commands get the same."""

from __future__ import annotations

import itertools
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, read_write

from igpt.cluster.ranks import is_main_process
from igpt.configuration.path_arguments import quoted


class NewFolders(Callback):
    """Creates the folder of a run or of a sweep, if the time is in its name, and adds a number where that is taken. A
    folder with another name was chosen by somebody, and is used as it is.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        create_folder(config, "run")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        create_folder(config, "sweep")


def create_folder(config: DictConfig, kind: str) -> None:
    """Create the new folder of `hydra.run` or `hydra.sweep`, and let the configuration name it."""
    settings = config.hydra[kind]
    written: Any = OmegaConf.to_container(settings, resolve=False)
    if "${now:" not in written["dir"] or not is_main_process():
        return
    with suppress(OSError):  # what Hydra does next says it better
        folder = new_folder(Path(settings.dir))
        with read_write(config.hydra):
            settings.dir = str(folder)
            config.hydra.overrides.hydra.append(f"hydra.{kind}.dir={quoted(folder)}")  # for the jobs of a sweep


def new_folder(path: Path) -> Path:
    """Create a folder that nobody has: `path`, or `path` with a number behind it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        candidate = path if number == 1 else path.with_name(f"{path.name}_{number}")
        with suppress(FileExistsError):
            candidate.mkdir()
            return candidate
    raise AssertionError  # there is a number for everybody
