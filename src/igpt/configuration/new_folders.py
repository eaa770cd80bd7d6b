"""Run and sweep directories that are named after the time: no two commands get the same one."""

from __future__ import annotations

import itertools
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, read_write

from igpt.cluster.ranks import is_main_process
from igpt.configuration.path_arguments import quote


class NewFolders(Callback):
    """Creates the directory of a run or a sweep if its name contains the time; a number is added if the name is taken.

    A directory without the time in its name was chosen by the user, and is used as it is.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        create_folder(config, "run")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        create_folder(config, "sweep")


def create_folder(config: DictConfig, kind: str) -> None:
    """Create a new directory for `hydra.run` or `hydra.sweep` (`kind`), and write its name into the configuration."""
    settings = config.hydra[kind]
    written: Any = OmegaConf.to_container(settings, resolve=False)
    if "${now:" not in written["dir"] or not is_main_process():
        return
    with suppress(OSError):  # Hydra creates the directory next, and its error is reported
        folder = new_folder(Path(os.path.normpath(settings.dir)))  # outputs/../x must not create outputs/
        with read_write(config.hydra):
            settings.dir = str(folder)
            config.hydra.overrides.hydra.append(f"hydra.{kind}.dir={quote(folder)}")  # for the jobs of a sweep


def new_folder(path: Path) -> Path:
    """Create a directory that does not exist yet: `path`, or `path` with a number appended."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        candidate = path if number == 1 else path.with_name(f"{path.name}_{number}")
        with suppress(FileExistsError):
            candidate.mkdir()
            return candidate
    raise AssertionError("unreachable: the numbers do not end")
