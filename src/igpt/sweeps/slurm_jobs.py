"""Jobs of a sweep on SLURM: each is written down when it is submitted, and waited for however the others end."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import submitit
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from submitit.core.utils import FailedJobError, UncompletedJobError

from igpt.cluster.signals import stop_signals
from igpt.run_directory import read_job, write_job

log = logging.getLogger(__name__)


class WaitForAll(Callback):
    """Hydra's launcher would stop waiting at the first job that failed, and what became of the others nobody would see;
    a search would end there.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        submitit.AutoExecutor = PatientExecutor  # type: ignore[misc]  # which the launcher looks up there
        stop_signals.requeues = False  # the jobs go on without this command, which would submit them once more


class PatientExecutor(submitit.AutoExecutor):
    """submitit's executor, but that the jobs it gives never raise."""

    def map_array(self, fn: Any, *arguments: Iterable[Any]) -> list[Any]:
        """Submit; the first argument of each job of the launcher is the list of its overrides."""
        overrides, *others = map(list, arguments)
        jobs = super().map_array(fn, overrides, *others)
        for job, of_job in zip(jobs, overrides, strict=True):
            write_job(job.paths.folder, status="pending", overrides=list(of_job))
        return [PatientJob(job) for job in jobs]


class PatientJob:
    """A job whose result is one without a value, if it failed."""

    def __init__(self, job: submitit.Job[JobReturn]) -> None:
        self.job = job

    def results(self) -> list[JobReturn]:
        """Wait for the end of the job; the result of each of its processes."""
        try:
            return self._results()
        except (UncompletedJobError, FailedJobError) as error:
            log.error("%s", error)  # which has the end of the job's log
            self._note_failure()
        failed = JobReturn()
        failed.status, failed.return_value = JobStatus.COMPLETED, None  # what sweepers go on after
        return [failed]

    def _results(self) -> list[JobReturn]:
        """The results; those of a job whose node died when it has come back from the queue and ended."""
        while True:
            try:
                return self.job.results()
            except UncompletedJobError:
                self.job.watcher.clear()  # which would not ask again about a job that it saw ended
                if self.job.done(force_check=True):
                    raise

    def _note_failure(self) -> None:
        """For the table, if the job could not write down itself how it ended."""
        folder = Path(self.job.paths.folder)
        reason = f"SLURM ended it as {self.job.state}; its log is {self.job.task(0).paths.stdout}"
        write_job(folder, **{**read_job(folder), "status": "failed", "error": reason})
