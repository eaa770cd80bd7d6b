"""Weights & Biases: one W&B run per run directory, however often it is resumed."""

from __future__ import annotations

import logging
import os
import shlex
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, wraps
from pathlib import Path
from typing import Any

from lightning_fabric.loggers.logger import rank_zero_experiment
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from igpt.code_commit import code_commit
from igpt.errors import reason_of
from igpt.evaluation.evaluator import Table
from igpt.metric_names import find_metric
from igpt.run_directory import RunDirectory
from igpt.training.loggers.best_values import BestValues, goal_in_training
from igpt.training.loggers.wandb_artifacts import ArtifactLog
from igpt.training.loggers.wandb_process import (
    agent_run_id,
    command_line,
    finish_limits,
    forget_ended_service,
    printable_arguments,
    wandb_mode_restored,
)
from igpt.wandb_server import offline_reason

log = logging.getLogger(__name__)


def without_failing(method: Callable[..., None]) -> Callable[..., None]:
    """A method of :class:`WandbTracker` that never fails, so that training goes on whatever happens to W&B.

    The first failure of each method is a warning in the log. Nothing more is logged if the W&B run cannot begin, and
    once W&B's service process has ended: SLURM may end it with the SIGTERM that it sends to all processes, while the
    main process still has to save.
    """

    @wraps(method)
    def guarded(self: WandbTracker, *arguments: Any, **options: Any) -> None:
        if self.unusable:
            return
        try:
            method(self, *arguments, **options)
        except ConnectionError:
            self.unusable = True
            log.warning("W&B's service has ended, so nothing more is logged there; metrics.csv has all values.")
        except Exception as error:  # of the library, or of the disk
            if not self.unusable and method.__name__ not in self._failed:
                self._failed.add(method.__name__)
                log.warning("W&B: %s failed (%s); training goes on.", method.__name__, reason_of(error))

    return guarded


class WandbTracker(WandbLogger):
    """Logs to W&B. A resumed run continues the same W&B run. Without a connection it logs offline."""

    unusable = False
    log_image = without_failing(WandbLogger.log_image)
    finalize = without_failing(WandbLogger.finalize)

    def __init__(
        self,
        run_dir: str,
        offline: bool | None = None,
        first_step: int | None = None,
        artifacts: Sequence[str] = (),
        artifact_days: int | None = None,
        **init: Any,
    ) -> None:
        """With `offline=None`, the run is logged offline, into `run_dir`, if there is no key or no server.

        `first_step` is where training begins, which is not 0 in a resumed run. None is for what is done with a trained
        model: it has a W&B run of its own, in the group of the run that trained the model.

        `artifacts` names the checkpoints to upload at the end (best, last), which W&B deletes after `artifact_days`.
        `init` are the arguments of `wandb.init`; a group of None is the sweep or the run directory.
        """
        import wandb  # takes a second, so only where it is used

        run = RunDirectory(Path(run_dir))
        names = names_of(run)
        init["group"] = init.get("group") or names["group"]
        run_id = agent_run_id()
        if first_step is None:
            init["name"] = f"{init.get('name', 'run')} {names.get('name', run.path.resolve().name)}"
        else:
            init["name"] = names.get("name", init.get("name"))
            if run.has_tracking_id:
                init |= dict.fromkeys(("name", "tags", "notes"))  # keep those it has, which a person may have changed
            run_id = run.tracking_id(run_id) if rank_zero_only.rank == 0 else None  # type: ignore[attr-defined]
        if offline is None:
            reason = None if "WANDB_MODE" in os.environ else offline_reason()
            offline = reason is not None
            if reason is not None:
                _log_offline(reason, run_dir)
        # Offline, W&B would only repeat the line above. It must not capture the console, which has a progress bar.
        settings = wandb.Settings(silent=bool(offline), console="off", **finish_limits(wandb.Settings))
        if offline:
            settings.mode = "offline"  # the variable that Lightning sets has no effect once W&B is set up
        place = str(run.path.absolute())  # W&B's service may run in another folder
        super().__init__(save_dir=place, id=run_id, resume="allow", offline=bool(offline), settings=settings, **init)
        self._wandb_init.pop("anonymous", None)  # Lightning passes this option, which W&B has removed
        self.artifacts = ArtifactLog(lambda: self.experiment)
        self._uploaded, self._artifact_days = artifacts, artifact_days
        self._metrics, self._first_step = run.metrics, first_step or 0
        self._failed: set[str] = set()  # methods
        self._defined: set[str] = set()  # metrics

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """W&B's run, which begins at the first call; None if it cannot begin."""
        if self.unusable:
            return self._experiment
        try:
            with wandb_mode_restored(), printable_arguments():
                return self._begin()
        except Exception as error:  # of the library, or of the disk
            self.unusable = True
            log.warning("W&B cannot log this run (%s); metrics.csv has all values.", reason_of(error))
            return None

    def _begin(self) -> Any:
        """W&B's run; offline, if the server answers but refuses the run."""
        import wandb

        forget_ended_service()
        begin = WandbLogger.experiment.fget  # type: ignore[attr-defined]
        try:
            return begin(self)
        except wandb.Error as error:
            if self._offline:
                raise
            wandb.teardown()  # the service was started to log online
            _log_offline(reason_of(error), str(self.save_dir))
            self._offline = True
            return begin(self)

    def log_checkpoints(self, run: RunDirectory) -> None:
        """Log the best and the last checkpoint of a finished run."""
        self.artifacts.log_checkpoints(run, self._uploaded, self._artifact_days)

    @without_failing
    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """Log the configuration as W&B's, with the code and the command."""
        given = vars(params) if isinstance(params, Namespace) else params
        super().log_hyperparams({**given, "igpt": {"commit": code_commit(), "command": command_line()}})

    @without_failing
    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log values of a step. W&B's summary of a metric with a goal is its best value."""
        for name in metrics.keys() - self._defined:
            self._define(name)
        super().log_metrics({name: value for name, value in metrics.items() if name != "epoch"}, step)
        if self._first_step:  # W&B forgets the best values of the steps before
            self.experiment.summary.update(self._best.update(metrics))

    def _define(self, name: str) -> None:
        self._defined.add(name)
        metric = find_metric(name)
        if metric is not None and (goal := goal_in_training(name)) is not None:
            self.experiment.define_metric(name, step_metric=metric.x_axis, summary=goal)

    @cached_property
    def _best(self) -> BestValues:
        return BestValues(self._metrics, self._first_step)

    @without_failing
    def log_summary(self, values: Mapping[str, Any]) -> None:
        """Log what W&B shows beside the run in a table."""
        self.experiment.summary.update(values)

    @without_failing
    def send_alert(self, title: str, text: str, level: str) -> None:
        """Send an alert, which W&B forwards as its user has chosen; of an offline run, when it is uploaded."""
        self.experiment.alert(title, text, level)

    @without_failing
    def log_rows(self, name: str, table: Table, step: int | None) -> None:
        """Log a table, with the image of each row in its first column if it has images."""
        import wandb

        columns = list(dict.fromkeys(column for row in table.rows for column in row))
        data = [[row.get(column) for column in columns] for row in table.rows]
        if table.images is not None:
            columns = ["picture", *columns]
            data = [[wandb.Image(image), *row] for image, row in zip(table.images, data, strict=True)]
        self.log_metrics({name: wandb.Table(columns=[*columns], data=data)}, step)

    @without_failing
    def log_confusion(self, name: str, table: Table, step: int | None) -> None:
        """Log W&B's chart of a confusion matrix, whose rows have a class, a predicted one, and a number of images."""
        import wandb

        names = ["Actual", "Predicted", "nPredictions"]
        counts = wandb.Table(columns=[*names], data=[list(row.values()) for row in table.rows])
        chart = wandb.plot_table("wandb/confusion_matrix/v1", counts, {each: each for each in names})
        self.log_metrics({name: chart}, step)

    @without_failing
    def log_lines(
        self,
        name: str,
        xs: Sequence[Sequence[float]],
        ys: Sequence[Sequence[float]],
        keys: Sequence[str],
        title: str,
        x_name: str,
    ) -> None:
        """Log a chart of several lines, each with a key in its legend."""
        import wandb

        self.log_metrics({name: wandb.plot.line_series(xs, ys, keys, title, x_name)})


def names_of(run: RunDirectory) -> dict[str, str]:
    """The group of a run in W&B: its sweep, or else its own folder; and the name of a sweep's job, made of the
    overrides in which the jobs differ.
    """
    job = run.job()
    if job.get("varied"):
        return {"name": " ".join(job["varied"]), "group": job["sweep"]}
    return {"group": "/".join(run.path.resolve().parts[-2:])}


def _log_offline(reason: str, run_dir: str) -> None:
    log.info(
        "W&B: %s, so this run is logged offline; `wandb sync %s/wandb/*run-*` uploads it, all parts of a resumed run "
        "in their order.", reason, shlex.quote(run_dir),
    )  # fmt: skip
