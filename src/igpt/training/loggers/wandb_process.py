"""W&B in this process: its service, the end of its run, and the environment that it and Lightning change."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from igpt.cluster.signals import Interrupted
from igpt.errors import reason_of
from igpt.files import printable

log = logging.getLogger(__name__)


@contextmanager
def finishing_wandb() -> Iterator[None]:
    """Finish W&B's run at the end of this block, so that the next job of a sweep begins a new one. The run counts as
    failed after an error, and as preempted after a signal, since it can be resumed.
    """
    try:
        yield
    except (Interrupted, KeyboardInterrupt):
        finish_wandb(exit_code=1, preempted=True)
        raise
    except BaseException:
        finish_wandb(exit_code=1)
        raise
    finish_wandb()


def finish_wandb(exit_code: int = 0, preempted: bool = False) -> None:
    """Finish W&B's run of this process, if there is one."""
    wandb = sys.modules.get("wandb")
    if wandb is None or wandb.run is None:
        return
    folder = shlex.quote(wandb.run.settings.sync_dir)
    try:
        if preempted:
            wandb.run.mark_preempting()
        wandb.finish(exit_code=exit_code)
    except TimeoutError:
        log.warning(
            "W&B did not finish the upload in time; `wandb sync --include-online %s` uploads the whole run again.",
            folder,
        )
    except ConnectionError:  # its service has ended
        with suppress(ConnectionError):
            wandb.teardown()
        log.warning("W&B: `wandb sync --include-online %s` uploads what was logged of this run.", folder)
    except Exception as error:  # of the disk, for example
        log.warning("W&B: the end of the run failed (%s).", reason_of(error))


def agent_run_id() -> str | None:
    """The id of the W&B run for which a W&B sweep agent started this process."""
    return os.environ.get("WANDB_RUN_ID") if "WANDB_SWEEP_ID" in os.environ else None


def command_line() -> str:
    """The command of this process, as it was given."""
    program, *arguments = sys.orig_argv[1:] or sys.argv
    return printable(shlex.join([Path(program).name, *arguments]))


def forget_ended_service() -> None:
    """Let W&B start a service process of its own if the one whose address this process inherited has ended, as in a
    job that was submitted from a notebook.
    """
    import wandb

    if "WANDB_SERVICE" not in os.environ:
        return
    try:
        wandb.setup()  # connects to the service
    except Exception:
        del os.environ["WANDB_SERVICE"]


def finish_limits(settings: Any) -> dict[str, Any]:
    """Limit the seconds that W&B may take at the end to upload the rest, perhaps to a server that is gone: a preempted
    job has to be requeued before the cluster ends it. What is not uploaded in time stays in the run directory.
    """
    limits = {"finish_timeout": 60.0, "finish_timeout_raises": True}
    return {name: limit for name, limit in limits.items() if name in settings.model_fields}  # older versions lack some


@contextmanager
def printable_arguments() -> Iterator[None]:
    """W&B records the command line, and needs it in UTF-8."""
    found = sys.argv
    sys.argv = [printable(argument) for argument in found]
    try:
        yield
    finally:
        sys.argv = found


@contextmanager
def wandb_mode_restored() -> Iterator[None]:
    """Lightning sets WANDB_MODE for an offline run, which must not decide about the next job of a sweep."""
    found = os.environ.get("WANDB_MODE")
    try:
        yield
    finally:
        os.environ.pop("WANDB_MODE", None)
        if found is not None:
            os.environ["WANDB_MODE"] = found
