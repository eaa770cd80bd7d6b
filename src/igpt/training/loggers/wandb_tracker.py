"""Weights & Biases: one W&B run per run directory, however often it is resumed."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import Any

from lightning_fabric.loggers.logger import rank_zero_experiment
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from igpt.cluster.signals import Interrupted
from igpt.files import printable
from igpt.run_directory import RunDirectory
from igpt.training.loggers.wandb_artifacts import ArtifactLog
from igpt.wandb_server import offline_reason

log = logging.getLogger(__name__)


def unless_service_ended(method: Callable[..., None]) -> Callable[..., None]:
    """A method of :class:`WandbTracker` that does nothing once W&B's service process has ended. SLURM may end it with
    the SIGTERM that it sends to all processes, while the main process still has to save.
    """

    @wraps(method)
    def guarded(self: WandbTracker, *arguments: Any, **options: Any) -> None:
        if self.service_ended:
            return
        try:
            method(self, *arguments, **options)
        except ConnectionError:
            self.service_ended = True
            log.warning("W&B's service has ended, so nothing more is logged there; metrics.csv has all values.")

    return guarded


class WandbTracker(WandbLogger):
    """Logs to W&B. A resumed run continues the same W&B run. Without a connection it logs offline."""

    service_ended = False
    log_metrics = unless_service_ended(WandbLogger.log_metrics)
    log_hyperparams = unless_service_ended(WandbLogger.log_hyperparams)
    log_image = unless_service_ended(WandbLogger.log_image)
    finalize = unless_service_ended(WandbLogger.finalize)

    def __init__(
        self,
        run_dir: str,
        offline: bool | None = None,
        artifacts: Sequence[str] = (),
        artifact_days: int | None = None,
        **init: Any,
    ) -> None:
        """With `offline=None`, the run is logged offline, into `run_dir`, if there is no key or no server.

        `artifacts` names the checkpoints to upload at the end (best, last), which W&B deletes after `artifact_days`.
        """
        import wandb  # takes a second, so only where it is used

        run = RunDirectory(Path(run_dir))
        init = {**init, **sweep_job_names(run)}
        if run.has_tracking_id:
            init["name"] = None  # keep the name that it has, which a person may have changed
        run_id = run.tracking_id(sweep_agent_run_id()) if rank_zero_only.rank == 0 else None  # type: ignore[attr-defined]
        if offline is None:
            reason = None if "WANDB_MODE" in os.environ else offline_reason()
            offline = reason is not None
            if reason is not None:
                _log_offline(reason, run_dir)
        # Offline, W&B would only repeat the line above. It must not capture the console, which has a progress bar.
        settings = wandb.Settings(silent=bool(offline), console="off", **_finish_limits(wandb.Settings))
        super().__init__(save_dir=run_dir, id=run_id, resume="allow", offline=bool(offline), settings=settings, **init)
        self._wandb_init.pop("anonymous", None)  # Lightning passes this option, which W&B has removed
        self.artifacts = ArtifactLog(lambda: self.experiment)
        self._uploaded, self._artifact_days = artifacts, artifact_days

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """W&B's run, which begins at the first call; offline, if the server answers but refuses the run."""
        import wandb

        begin = WandbLogger.experiment.fget  # type: ignore[attr-defined]
        with _wandb_mode_restored(), _printable_arguments():
            try:
                return begin(self)
            except wandb.Error as error:
                if self._offline:
                    raise
                wandb.teardown()  # the service was started to log online
                _log_offline(" ".join(str(error).split()), str(self.save_dir))
                self._offline = True
                return begin(self)

    def log_checkpoints(self, run: RunDirectory) -> None:
        """Log the best and the last checkpoint of a finished run."""
        self.artifacts.log_checkpoints(run, self._uploaded, self._artifact_days)

    @unless_service_ended
    def log_summary(self, values: Mapping[str, Any]) -> None:
        """Log what W&B shows beside the run in a table."""
        self.experiment.summary.update(values)

    @unless_service_ended
    def send_alert(self, title: str, text: str, level: str) -> None:
        """Send an alert, which W&B forwards as its user has chosen; of an offline run, when it is uploaded."""
        self.experiment.alert(title, text, level)


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


def sweep_agent_run_id() -> str | None:
    """The id of the W&B run for which a W&B sweep agent started this process."""
    return os.environ.get("WANDB_RUN_ID") if "WANDB_SWEEP_ID" in os.environ else None


def sweep_job_names(run: RunDirectory) -> dict[str, str]:
    """The name of a sweep's job in W&B, made of the overrides in which the jobs differ, and the group of its sweep."""
    job = run.job()
    return {"name": " ".join(job["varied"]), "group": job["sweep"]} if job.get("varied") else {}


def _log_offline(reason: str, run_dir: str) -> None:
    log.info(
        "W&B: %s, so this run is logged offline; `wandb sync %s/wandb/*run-*` uploads it, all parts of a resumed run "
        "in their order.", reason, shlex.quote(run_dir),
    )  # fmt: skip


def _finish_limits(settings: Any) -> dict[str, Any]:
    """Limit the seconds that W&B may take at the end to upload the rest, perhaps to a server that is gone: a preempted
    job has to be requeued before the cluster ends it. What is not uploaded in time stays in the run directory.
    """
    limits = {"finish_timeout": 60.0, "finish_timeout_raises": True}
    return {name: limit for name, limit in limits.items() if name in settings.model_fields}  # older versions lack some


@contextmanager
def _printable_arguments() -> Iterator[None]:
    """W&B records the command line, and needs it in UTF-8."""
    found = sys.argv
    sys.argv = [printable(argument) for argument in found]
    try:
        yield
    finally:
        sys.argv = found


@contextmanager
def _wandb_mode_restored() -> Iterator[None]:
    """Lightning sets WANDB_MODE for an offline run, which must not decide about the next job of a sweep."""
    found = os.environ.get("WANDB_MODE")
    try:
        yield
    finally:
        os.environ.pop("WANDB_MODE", None)
        if found is not None:
            os.environ["WANDB_MODE"] = found
