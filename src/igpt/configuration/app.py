"""The Hydra application that all commands share; errors that igpt foresees are printed as one sentence."""

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

import igpt.configuration.resolvers  # noqa: F401  # conf/ needs them
from igpt.cluster.ranks import is_main_process
from igpt.configuration.hydra_messages import explain, is_configuration_error, replace_null_groups
from igpt.configuration.path_arguments import quote_paths
from igpt.console import tolerant_console
from igpt.errors import IgptError, in_one_line
from igpt.files import expand_user
from igpt.run_directory import RunDirectory

Command = Callable[[DictConfig], Any]

FULL_ERROR = "HYDRA_FULL_ERROR"


def run_app(command: Command, config_name: str) -> None:
    """Compose the configuration `config_name`, check it, and call the command with it.

    A sweeper optimizes what the command returns.
    """
    ensure_home()
    user_setting = os.environ.get(FULL_ERROR)

    def restore() -> None:
        os.environ.pop(FULL_ERROR, None)
        if user_setting is not None:
            os.environ[FULL_ERROR] = user_setting

    def checked(config: DictConfig) -> Any:
        from igpt.configuration.resume import starts_from_model
        from igpt.configuration.schema.check import check  # pydantic's import would make --help slower

        with removed_if_refused():
            check(config, config_name, before_model=starts_from_model(config))
            return command(config)

    def job(config: DictConfig) -> Any:
        restore()
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            return checked(config)  # Hydra records an error of one job, and the sweep continues
        with errors_as_sentences():
            return checked(config)

    sys.argv[1:] = replace_null_groups(quote_paths(sys.argv[1:]))
    try:
        with tolerant_console(), errors_as_sentences(), hydra_errors_explained(config_name):
            os.environ[FULL_ERROR] = "1"  # Hydra then raises errors of composition instead of printing them
            hydra.main(version_base="1.3", config_path="pkg://igpt.conf", config_name=config_name)(job)()
    finally:
        restore()


def ensure_home() -> None:
    """Set HOME and USER where they are missing, as in containers: W&B, matplotlib and torch need them."""
    os.environ.setdefault("HOME", str(expand_user("~")))
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = str(os.getuid())


@contextmanager
def hydra_errors_explained(command: str) -> Iterator[None]:
    """Errors of Hydra and OmegaConf about a command's arguments become one sentence that says what to do."""
    unknown = [word for word in get_args_parser().parse_known_args()[1] if word.startswith("-")]
    if unknown:
        raise IgptError(
            f"There is no option {unknown[0]}; values are KEY=VALUE, without hyphens; --hydra-help lists the options."
        )
    try:
        yield
    except Exception as error:
        if not is_configuration_error(error):
            raise
        raise IgptError(explain(error, command, sys.argv[1:])) from error


@contextmanager
def removed_if_refused() -> Iterator[None]:
    """Remove a new run directory again if this block refuses its input before there are results.

    A sweep keeps the directories of refused jobs, because its table lists them.
    """
    hydra_config = HydraConfig.get()
    folder, start = Path(hydra_config.runtime.output_dir), Path(hydra_config.runtime.cwd)
    is_new = (
        hydra_config.mode == RunMode.RUN
        and is_main_process()
        and folder != start
        and {path.name for path in folder.iterdir()} <= {hydra_config.output_subdir}
    )
    try:
        yield
    except (IgptError, HydraException, OmegaConfBaseException):
        if is_new:
            remove_without_results(RunDirectory(folder), hydra_config.job.name, start)
        raise


def remove_without_results(run: RunDirectory, job: str, start: Path) -> None:
    """Remove a run directory that contains only what is written before training, and parent folders that become empty,
    below the directory `start` in which the command was started.
    """
    preparations = {run.config.parent.name, f"{job}.log", run.palette.name, run.data.name}
    if {path.name for path in run.path.iterdir()} - preparations:
        return
    logging.shutdown()
    shutil.rmtree(run.path, ignore_errors=True)
    for parent in run.path.parents:
        if start not in parent.parents or any(parent.iterdir()):
            break
        parent.rmdir()


@contextmanager
def errors_as_sentences() -> Iterator[None]:
    """End the command with one sentence on stderr and status 1 after an error that igpt foresees.

    HYDRA_FULL_ERROR=1 gives the traceback instead. Other exceptions are bugs; their traceback shows where.
    """
    if os.environ.get(FULL_ERROR) == "1":
        yield
        return
    try:
        yield
    except (IgptError, HydraException, OmegaConfBaseException) as error:
        # An error of a component that Hydra instantiates is the cause of Hydra's own error.
        foreseen = error.__cause__ if isinstance(error.__cause__, IgptError) else error
        sys.exit(f"Error: {in_one_line(foreseen)}")
    except RuntimeError as error:
        if type(error).__module__ != "submitit.core.utils":  # submitit may not be installed
            raise
        sys.exit(f"Error: {error}")
    except KeyboardInterrupt:
        print("\nInterrupted. Run the same command again to continue; finished work is kept.", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        if error.filename is None:
            raise
        advice = "choose a location that you can read and write, or free disk space"
        sys.exit(f"Error: {error.filename}: {error.strerror}; {advice}.")


def plain(config: Any) -> Any:
    """A configuration as plain dicts, lists and values, with all interpolations resolved."""
    return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
