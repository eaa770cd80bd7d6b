"""Pruning: ends unpromising trials of a search early, those worse than the other trials at the same step."""

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
    """Prunes a trial of an Optuna study by the median rule (Vizier, Golovin et al. 2017).

    After each validation, the value of `monitor` is added to the study. If the trial's best value so far is worse than
    the median of the other trials at the same step, training ends, and the run is evaluated like any other.

    No trial is pruned in the first part of training (`warmup`, a share of its steps), nor before `startup_trials`
    trials are complete. A run without a running trial in the study trains to the end.
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
        if job.get("status") == "pruned":  # and interrupted before its final report was complete
            log.info("This trial was pruned, so its training has ended; ~callbacks.prune continues it.")
            trainer.should_stop = True
        elif trainer.is_global_zero and job.get("status") == "running":
            self._trial = self._ask(lambda: self._find_trial(job["overrides"], trainer.max_steps), otherwise=None)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        value = monitored_value(trainer, self.monitor)
        prune = self._ask(lambda: self._should_prune(value, trainer.global_step, trainer.max_steps), otherwise=False)
        if not trainer.strategy.broadcast(prune):
            return
        trainer.should_stop = True
        if trainer.is_global_zero:
            log.info("Pruned at step %d: other trials of the search were better there.", trainer.global_step)
            self.run.note_job(status="pruned")

    def _find_trial(self, overrides: Sequence[str], max_steps: int) -> Trial | None:
        study = open_study(self.storage, self.study, self.startup_trials, int(self.warmup * max_steps))
        return find_trial(study, overrides, str(self.run.path))

    def _should_prune(self, value: float, step: int, max_steps: int) -> bool:
        """Add a value to the study, and get Optuna's decision. Only rank 0 has a trial."""
        if self._trial is None:
            return False
        self._trial.report(value, step)
        return step < max_steps and self._trial.should_prune()

    @staticmethod
    def _ask(question: Callable[[], Answer], otherwise: Answer) -> Answer:
        """Optuna's answer. Training must not fail because the study is locked or missing, or the trial has ended."""
        try:
            return question()
        except Exception as error:  # raised by Optuna, its database, or the file system
            log.warning("The study of the search is not accessible (%s); training continues without pruning.", error)
            return otherwise


def open_study(storage: str, name: str, startup_trials: int, warmup_steps: int) -> Study:
    """The sweeper's study, with the median rule as its pruner."""
    import optuna

    file = Path(storage.removeprefix("sqlite:///"))
    if storage.startswith("sqlite:///") and not file.exists():
        raise FileNotFoundError(f"there is no {file}")  # SQLite would create an empty one
    pruner = optuna.pruners.MedianPruner(startup_trials, warmup_steps)
    return optuna.load_study(study_name=name, storage=storage, pruner=pruner)


def find_trial(study: Study, overrides: Sequence[str], run: str) -> Trial | None:
    """The running trial of the job with these overrides: the sweeper passes only a trial's values to its job.

    If several trials have the same values, each run takes one of them, and takes the same one again when it resumes.
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
    # The latest trial: older trials without a run are left over from a search that was killed.
    trial = Trial(study, max(found, key=lambda trial: (RUN in trial.user_attrs, trial.number))._trial_id)
    trial.set_user_attr(RUN, run)
    return trial
