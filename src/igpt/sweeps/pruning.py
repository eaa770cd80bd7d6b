"""Ends the hopeless jobs of a search early: those that are worse than the others were at the same step."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytorch_lightning as pl

from igpt.run_directory import RunDirectory
from igpt.training.callbacks.monitored import monitored_value

if TYPE_CHECKING:
    from optuna import Study, Trial

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

RUN = "igpt/run"  # the attribute of a trial that names its run directory


class PruneTrial(pl.Callback):
    """After each validation, tells Optuna's study the value of `monitor`. When the best of them is worse than the
    median of what others had at that step (the median rule of Vizier, Golovin et al. 2017), training ends, and the run
    is evaluated like any other.

    Nothing is pruned in the first part of training (`warmup`, a share of its steps), nor before `startup_trials` others
    are done. A run that is no job of a search, or no longer, trains to its end.
    """

    def __init__(
        self, run_dir: str, storage: str, study: str, monitor: str, warmup: float = 0.2, startup_trials: int = 5
    ) -> None:
        self.run = RunDirectory(Path(run_dir))
        self.storage = storage
        self.study = study
        self.monitor = monitor
        self.warmup = warmup
        self.startup_trials = startup_trials
        self._trial: Trial | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        job = self.run.job()
        if job.get("status") == "pruned":  # and interrupted before its report was done
            log.info("This job was pruned; it is not trained on unless you say ~callbacks.prune.")
            trainer.should_stop = True
        elif trainer.is_global_zero and job.get("status") == "running":
            self._trial = self._ask(lambda: self._find_trial(job["overrides"], trainer.max_steps), otherwise=None)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        value = monitored_value(trainer, self.monitor)
        hopeless = self._ask(lambda: self._is_hopeless(value, trainer.global_step, trainer.max_steps), otherwise=False)
        if not trainer.strategy.broadcast(hopeless):
            return
        trainer.should_stop = True
        if trainer.is_global_zero:
            log.info("Other jobs of the search were better at step %d; this one ends here.", trainer.global_step)
            self.run.note_job(status="pruned")

    def _find_trial(self, overrides: Sequence[str], max_steps: int) -> Trial | None:
        study = open_study(self.storage, self.study, self.startup_trials, int(self.warmup * max_steps))
        return find_trial(study, overrides, str(self.run.path))

    def _is_hopeless(self, value: float, step: int, max_steps: int) -> bool:
        """What Optuna says of this job, in the process of rank 0."""
        if self._trial is None:
            return False
        self._trial.report(value, step)
        return step < max_steps and self._trial.should_prune()

    @staticmethod
    def _ask(question: Callable[[], Answer], otherwise: Answer) -> Answer:
        """Optuna's answer. A study that is locked by other jobs, gone, or done with this one is no reason to stop."""
        try:
            return question()
        except Exception as error:  # of Optuna, its database, or the file system
            log.warning("The study of the search could not be asked (%s); training goes on.", error)
            return otherwise


def open_study(storage: str, name: str, startup_trials: int, warmup_steps: int) -> Study:
    """The study that a sweeper keeps, with the rule by which its trials are pruned."""
    import optuna

    file = Path(storage.removeprefix("sqlite:///"))
    if storage.startswith("sqlite:///") and not file.exists():
        raise FileNotFoundError(f"there is no {file}")  # SQLite would make an empty one
    pruner = optuna.pruners.MedianPruner(startup_trials, warmup_steps)
    return optuna.load_study(study_name=name, storage=storage, pruner=pruner)


def find_trial(study: Study, overrides: Sequence[str], run: str) -> Trial | None:
    """The running trial that a job with these overrides is, of which the sweeper tells jobs nothing but the values.

    Of several with the same values, each run takes one and keeps it when it goes on after an interruption.
    """
    from optuna import Trial
    from optuna.trial import TrialState

    values = dict(override.split("=", 1) for override in overrides if "=" in override)
    found = [
        trial
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        if trial.params and all(values.get(name) == str(value) for name, value in trial.params.items())
        if trial.user_attrs.get(RUN, run) == run
    ]
    if not found:
        return None
    # The sweeper's latest; older ones without a run are left of a search that was killed.
    trial = Trial(study, max(found, key=lambda trial: (RUN in trial.user_attrs, trial.number))._trial_id)
    trial.set_user_attr(RUN, run)
    return trial
