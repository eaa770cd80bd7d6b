"""Jobs of a sweep on SLURM: each is recorded when it is submitted, and a failed job does not end the sweep."""

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


class WaitForAllJobs(Callback):
    """Lets Hydra's launcher wait for all jobs. By itself, the launcher raises at the first failed job, and the sweep
    ends without the results of the others.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        submitit.AutoExecutor = NonRaisingExecutor  # type: ignore[misc]  # the launcher looks it up here
        stop_signals.requeues = False  # the sweep's command, requeued, would submit its jobs again


class NonRaisingExecutor(submitit.AutoExecutor):
    """submitit's executor, with jobs whose failure is a result instead of an exception."""

    def map_array(self, fn: Any, *arguments: Iterable[Any]) -> list[Any]:
        """Submit and record the jobs; the first argument of each job is the list of its overrides."""
        overrides, *others = map(list, arguments)
        jobs = super().map_array(fn, overrides, *others)
        for job, job_overrides in zip(jobs, overrides, strict=True):
            write_job(job.paths.folder, status="pending", overrides=list(job_overrides))
        return [NonRaisingJob(job) for job in jobs]


class NonRaisingJob:
    """A job that has a result without a value if it failed."""

    def __init__(self, job: submitit.Job[JobReturn]) -> None:
        self.job = job

    def results(self) -> list[JobReturn]:
        """Wait for the end of the job, and return the result of each of its processes."""
        try:
            return self._results()
        except (UncompletedJobError, FailedJobError) as error:
            log.error("%s", error)  # the message contains the end of the job's log
            self._record_failure()
        failed = JobReturn()
        failed.status, failed.return_value = JobStatus.COMPLETED, None  # sweepers then continue
        return [failed]

    def _results(self) -> list[JobReturn]:
        """The results. If the job's node failed and SLURM requeued the job, wait for its next end."""
        while True:
            try:
                return self.job.results()
            except UncompletedJobError:
                self.job.watcher.clear()  # it would not query a job again that it has seen ended
                if self.job.done(force_check=True):
                    raise

    def _record_failure(self) -> None:
        """Record the failure for the table: a killed job cannot do it itself."""
        folder = Path(self.job.paths.folder)
        reason = f"SLURM ended it as {self.job.state}; its log is {self.job.task(0).paths.stdout}"
        write_job(folder, **{**read_job(folder), "status": "failed", "error": reason})
