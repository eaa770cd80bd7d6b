"""What every command shares: a Hydra app whose errors are one sentence."""

from __future__ import annotations

import getpass
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from igpt.configuration.hydra_messages import is_rewordable, reworded, with_null_groups
from igpt.configuration.path_arguments import quote_paths
from igpt.console import lasting_console
from igpt.errors import IgptError
from igpt.files import expand_user

Task = Callable[[DictConfig], Any]

FULL_ERROR = "HYDRA_FULL_ERROR"


def run_app(task: Task, config_name: str) -> None:
    """Compose the configuration `config_name`, and run the task with it; errors become one sentence.

    What the task returns is what a sweeper optimizes.
    """
    give_a_home()
    asked_for = os.environ.get(FULL_ERROR)

    def restore() -> None:
        os.environ.pop(FULL_ERROR, None)
        if asked_for is not None:
            os.environ[FULL_ERROR] = asked_for

    def checked_task(config: DictConfig) -> Any:
        from igpt.configuration.schema.check import check  # pydantic takes time that --help has not

        with nothing_left():
            check(config, config_name)
        return task(config)

    def job(config: DictConfig) -> Any:
        restore()
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            return checked_task(config)  # Hydra takes note of an error, and the other jobs of the sweep go on
        with one_sentence():
            return checked_task(config)

    sys.argv[1:] = with_null_groups(quote_paths(sys.argv[1:]))
    try:
        with lasting_console(), one_sentence(), in_our_words(config_name):
            os.environ[FULL_ERROR] = "1"  # so that Hydra lets errors of composition through to us
            hydra.main(version_base="1.3", config_path="pkg://igpt.conf", config_name=config_name)(job)()
    finally:
        restore()


def give_a_home() -> None:
    """Containers run commands as users without a home or a name, for which W&B, matplotlib and torch ask."""
    os.environ.setdefault("HOME", str(expand_user("~")))
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = str(os.getuid())


@contextmanager
def in_our_words(command: str) -> Iterator[None]:
    """What Hydra and OmegaConf say of the arguments of a command becomes one sentence with what to do here."""
    unknown = [word for word in get_args_parser().parse_known_args()[1] if word.startswith("-")]
    if unknown:
        raise IgptError(
            f"There is no option {unknown[0]}; values are KEY=VALUE, without hyphens; --hydra-help lists the options."
        )
    try:
        yield
    except Exception as error:
        if not is_rewordable(error):
            raise
        raise IgptError(reworded(error, command, sys.argv[1:])) from error


@contextmanager
def nothing_left() -> Iterator[None]:
    """If this block refuses the configuration, what Hydra wrote for the run is removed again. A sweep keeps it: its
    table shows the jobs that failed.
    """
    try:
        yield
    except IgptError:
        hydra_config = HydraConfig.get()
        folder = Path(hydra_config.runtime.output_dir)
        if hydra_config.mode == RunMode.RUN and folder != Path.cwd():
            remove_new_run(folder, hydra_config.output_subdir, hydra_config.job.name)
        raise


def remove_new_run(folder: Path, hydras: str | None, job: str) -> None:
    """Remove a run directory that has nothing but what Hydra writes into it, and the folders above that are empty then,
    up to the working directory.
    """
    if {path.name for path in folder.iterdir()} - {hydras, f"{job}.log"}:
        return
    logging.shutdown()
    shutil.rmtree(folder, ignore_errors=True)
    for parent in folder.parents:
        if Path.cwd() not in parent.parents or any(parent.iterdir()):
            break
        parent.rmdir()


@contextmanager
def one_sentence() -> Iterator[None]:
    """What we foresaw ends with one sentence on stderr and status 1, without a traceback unless HYDRA_FULL_ERROR=1 asks
    for one. What we did not foresee is a bug, and shows where it happened.
    """
    if os.environ.get(FULL_ERROR) == "1":
        yield
        return
    try:
        yield
    except (IgptError, HydraException, OmegaConfBaseException) as error:
        foreseen = error.__cause__ if isinstance(error.__cause__, IgptError) else error  # where Hydra made a component
        sys.exit(f"Error: {' '.join(str(foreseen).split())}")
    except RuntimeError as error:
        if type(error).__module__ != "submitit.core.utils":  # which need not be installed
            raise
        sys.exit(f"Error: {error}")
    except KeyboardInterrupt:
        print("\nStopped; the same command again goes on with what is done.", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        if error.filename is None:
            raise
        sys.exit(f"Error: {error.filename}: {error.strerror}; choose a place that can be written, or make room there.")


def plain(config: Any) -> Any:
    """A configuration as plain dicts, lists and values, everything resolved."""
    return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
