"""The callback of Hydra that records the jobs of a sweep, with every launcher and sweeper."""

from __future__ import annotations

import atexit
import functools
import json
import logging
import os
import shutil
import sys
from contextlib import ExitStack, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from igpt.cluster.ranks import is_main_process
from igpt.errors import IgptError, RunTakenError, in_one_line
from igpt.run_directory import RunDirectory, read_job, write_job
from igpt.run_lock import locked
from igpt.sweeps.job_records import COMMAND_OVERRIDES, Row
from igpt.sweeps.sweep_results import WITH_RESULT, write_results

log = logging.getLogger(__name__)

REFUSED = "refused"  # in the directory of a sweep: records of jobs whose directories hold other runs


class SweepTable(Callback):
    """Each job records its status in its run directory; the process of the sweep makes a table of these records.

    A failed job records its error and returns no value, so that the sweeper continues with the other jobs. Only one
    process at a time may sweep into a directory.
    """

    def __getstate__(self) -> dict[str, Any]:
        """Launchers pickle callbacks for the processes of their jobs, which hold no lock and make no table."""
        return {}

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        if "optuna" in config.hydra.sweeper._target_ and find_spec("optuna") is None:
            sys.exit("Error: hydra/sweeper=tpe needs the extra 'sweep': pip install 'igpt[sweep]'.")
        if "optuna" in config.hydra.sweeper._target_ and OmegaConf.select(config, "data.source.full_train"):
            sys.exit(
                "Error: hydra/sweeper=tpe compares trials on validation images, but data.source.full_train=true trains "
                "on them."
            )
        folder = folder_of_sweep(config)
        folder.mkdir(parents=True, exist_ok=True)  # Optuna creates its study here before the first job
        lock = ExitStack()
        try:
            lock.enter_context(locked(folder / "sweep.lock") if is_main_process() else nullcontext())
        except RunTakenError as error:
            sys.exit(f"Error: {error}")
        shutil.rmtree(folder / REFUSED, ignore_errors=True)
        (folder / COMMAND_OVERRIDES).write_text(json.dumps(list(config.hydra.overrides.task)))
        self._at_exit = functools.partial(write_results_and_unlock, lock, folder, config.monitor, config.monitor_mode)
        atexit.register(self._at_exit)  # runs also after Ctrl-C, or if a launcher raises an error

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        if not _is_own_job(config):
            return
        run = RunDirectory(Path(config.hydra.runtime.output_dir))
        slurm_record = {}
        if _on_slurm():
            slurm_record["slurm"] = str(config.hydra.job.id)
            submitted = folder_of_sweep(config) / "slurm" / slurm_record["slurm"]
            write_job(
                submitted, **{**read_job(submitted), "status": "started"}
            )  # a requeued job may have failed before
        self._before = before = run.job()
        status = "pruned" if before.get("status") == "pruned" else "running"
        write_job(  # replaces the record of an earlier start
            run.path, status=status, overrides=list(config.hydra.overrides.task), varied=varied(config),
            sweep=folder_of_sweep(config).name, starts=before.get("starts", 0) + 1,
            **slurm_record,
        )  # fmt: skip

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        if config.hydra.mode != RunMode.MULTIRUN:
            return
        run = RunDirectory(Path(config.hydra.runtime.output_dir))
        failed, error = job_return.status == JobStatus.FAILED, job_return._return_value
        refused = failed and isinstance(error, RunTakenError)
        ended: Row = {}
        if OmegaConf.select(config, "data.source.full_train"):
            ended["full_train"] = True
        if failed:
            foreseen = isinstance(error, IgptError)
            log.error("This job failed: %s", error or repr(error), exc_info=None if foreseen else error)
            ended |= {
                "status": "refused" if refused else "failed",
                "error": in_one_line(error),
            }
            job_return.status, job_return.return_value = JobStatus.COMPLETED, None
        elif run.job().get("status") == "running":
            ended["status"] = "finished"
        if _is_own_job(config) and refused:
            self._record_refusal(config, run, ended)
        elif _is_own_job(config):
            run.note_job(**ended)
        if failed and _on_slurm():
            sys.exit(1)  # so that SLURM also records the failure

    def _record_refusal(self, config: DictConfig, run: RunDirectory, ended: Row) -> None:
        """Write the record of a refused job elsewhere, and restore that of the run in its directory."""
        record = {**run.job(), "starts": 1, **ended}
        write_job(folder_of_sweep(config) / REFUSED / config.hydra.sweep.subdir, **record)
        if self._before:
            write_job(run.path, **self._before)
        else:
            (run.path / "job.json").unlink()

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        atexit.unregister(self._at_exit)
        rows = self._at_exit()
        failed = [row for row in rows if row["status"] not in WITH_RESULT]
        if len(failed) == len(rows):
            sys.exit("Error: no job of the sweep produced a result.")
        if failed:
            sys.exit(f"Error: {len(failed)} of {len(rows)} jobs of the sweep produced no result; the table says why.")


def folder_of_sweep(config: DictConfig) -> Path:
    """The directory of the sweep, whatever the current working directory is."""
    return Path(config.hydra.runtime.cwd, config.hydra.sweep.dir)


def varied(config: DictConfig) -> list[str]:
    """The overrides that the sweep chose for this job: those that are not in the sweep's command."""
    file = folder_of_sweep(config) / COMMAND_OVERRIDES
    shared = json.loads(file.read_text()) if file.exists() else []
    return [override for override in config.hydra.overrides.task if override not in shared]


def write_results_and_unlock(lock: ExitStack, folder: Path, monitor: str, mode: str) -> list[Row]:
    """Write the results of a sweep, and release its lock."""
    with lock:
        return write_results(folder, monitor, mode)


def _is_own_job(config: DictConfig) -> bool:
    """Whether this is the main process of a job of a sweep."""
    return config.hydra.mode == RunMode.MULTIRUN and is_main_process()


def _on_slurm() -> bool:
    """Whether submitit runs this process as a SLURM job."""
    return os.environ.get("SUBMITIT_EXECUTOR") == "slurm"
