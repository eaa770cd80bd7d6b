"""Where numbers and pictures of a run go: metrics.csv always, and the trackers that the configuration names."""

from __future__ import annotations

import csv
import logging
import netrc
import os
import shlex
import ssl
import sys
import urllib.request
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlparse

import pytorch_lightning as pl
from lightning_fabric.loggers.logger import rank_zero_experiment
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from igpt.files import atomic_path, expand_user, printable
from igpt.pretrained import first_step
from igpt.run_directory import RunDirectory

log = logging.getLogger(__name__)


class MetricsCSV(Logger):
    """metrics.csv: one row a logged step, one column a metric. Steps count from 0, as everywhere in Lightning.

    A run that is gone on with keeps the rows of the steps before `first_step`; those after it are trained anew.
    """

    def __init__(self, path: Path, first_step: int = 0) -> None:
        super().__init__()
        self.path = path
        self.rows: dict[int, dict[str, Any]] = {}
        if path.exists():
            with open(path, newline="", encoding="utf-8") as file:
                rows = {int(row.pop("step")): row for row in csv.DictReader(file)}
            self.rows = {step: {k: v for k, v in row.items() if v} for step, row in rows.items() if step < first_step}

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """The configuration lies in .hydra/ already."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        values = {name: value for name, value in metrics.items() if name != "epoch"}
        self.rows.setdefault(step or 0, {}).update(values)

    @rank_zero_only
    def save(self) -> None:
        names = sorted({name for row in self.rows.values() for name in row})
        with atomic_path(self.path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ("step", *names))
            writer.writeheader()
            writer.writerows({"step": step, **row} for step, row in sorted(self.rows.items()))

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()


def while_served(method: Callable[..., None]) -> Callable[..., None]:
    """A method of :class:`WandbTracker` that does nothing once W&B's service has ended, perhaps by the SIGTERM that
    SLURM sends to all processes: the main process still has to save.
    """

    @wraps(method)
    def tell(self: WandbTracker, *arguments: Any, **options: Any) -> None:
        if self.service_is_gone:
            return
        try:
            method(self, *arguments, **options)
        except ConnectionError:
            self.service_is_gone = True
            log.warning("W&B's service has ended; this run tells it no more. metrics.csv has all numbers.")

    return tell


class WandbTracker(WandbLogger):
    """W&B, with one run however often training is interrupted, and offline by itself where it cannot be online."""

    service_is_gone = False
    log_metrics = while_served(WandbLogger.log_metrics)
    log_hyperparams = while_served(WandbLogger.log_hyperparams)
    log_image = while_served(WandbLogger.log_image)
    finalize = while_served(WandbLogger.finalize)

    def __init__(self, run_dir: str, offline: bool | None = None, **init: Any) -> None:
        """`offline=None` finds out: without a key or a reachable server, the run is kept in `run_dir` for later."""
        import wandb  # a second, which runs without it need not wait

        run = RunDirectory(Path(run_dir))
        init = {**init, **as_job(run)}
        if run.has_tracking_id:
            init["name"] = None  # it has one already, perhaps one that a person gave it
        run_id = run.tracking_id(agents_run()) if rank_zero_only.rank == 0 else None  # type: ignore[attr-defined]
        if offline is None:
            reason = None if "WANDB_MODE" in os.environ else why_offline()
            offline = reason is not None
            if reason is not None:
                self._say_offline(reason, run_dir)
        # Offline, W&B has nothing to say that the line above did not; and it must not capture the progress bar.
        settings = wandb.Settings(silent=bool(offline), console="off", **_impatient(wandb.Settings))
        super().__init__(save_dir=run_dir, id=run_id, resume="allow", offline=bool(offline), settings=settings, **init)
        self._wandb_init.pop("anonymous", None)  # Lightning passes it on, and W&B warns that it is no more

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """W&B's run; offline, if a server that answered is none that a run can begin with."""
        import wandb

        begin = WandbLogger.experiment.fget  # type: ignore[attr-defined]
        with _mode_as_it_was(), _printable_arguments():
            try:
                return begin(self)
            except wandb.Error as error:
                if self._offline:
                    raise
                wandb.teardown()  # its service has heard that we wanted to be online
                self._say_offline(" ".join(str(error).split()), str(self.save_dir))
                self._offline = True
                return begin(self)

    @while_served
    def log_summary(self, values: Mapping[str, Any]) -> None:
        """What W&B shows of the run in a table."""
        self.experiment.summary.update(values)

    @staticmethod
    def _say_offline(reason: str, run_dir: str) -> None:
        log.info(
            "W&B: %s, so this run is kept offline; `wandb sync %s/wandb/*run-*` uploads it, all parts of a resumed "
            "run in their order.", reason, shlex.quote(run_dir),
        )  # fmt: skip


@contextmanager
def _printable_arguments() -> Iterator[None]:
    """W&B notes the command line, which must be UTF-8 for that."""
    found = sys.argv
    sys.argv = [printable(argument) for argument in found]
    try:
        yield
    finally:
        sys.argv = found


@contextmanager
def _mode_as_it_was() -> Iterator[None]:
    """Lightning sets WANDB_MODE for an offline run; the next job of the sweep shall find out for itself."""
    found = os.environ.get("WANDB_MODE")
    try:
        yield
    finally:
        os.environ.pop("WANDB_MODE", None)
        if found is not None:
            os.environ["WANDB_MODE"] = found


def _impatient(settings: Any) -> dict[str, Any]:
    """How many seconds W&B gets at the end to upload the rest, perhaps to a server that is gone: a job that was warned
    has to be back in the queue before the cluster ends it. What is not uploaded in time stays in the run directory.
    """
    limits = {"finish_timeout": 60.0, "finish_timeout_raises": True}
    return {name: limit for name, limit in limits.items() if name in settings.model_fields}  # older ones lack some


class TensorBoardTracker(TensorBoardLogger):
    """Event files in tensorboard/. A resumed run replaces what was logged of the steps that it repeats."""

    def __init__(self, run_dir: str, **writer: Any) -> None:
        begin = first_step(RunDirectory(Path(run_dir)))
        super().__init__(run_dir, name="", version="tensorboard", purge_step=begin, **writer)


def agents_run() -> str | None:
    """The id of the run that a W&B sweep agent started this process for."""
    return os.environ.get("WANDB_RUN_ID") if "WANDB_SWEEP_ID" in os.environ else None


def as_job(run: RunDirectory) -> dict[str, str]:
    """How W&B names a job of a sweep, by what the sweep varies, and groups it with the others."""
    job = run.job()
    return {"name": " ".join(job["varied"]), "group": job["sweep"]} if job.get("varied") else {}


def why_offline(timeout: float = 10.0) -> str | None:
    """The reason for which W&B cannot be reached from here, or None if it can."""
    url = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    host = urlparse(url).hostname or url
    if not os.environ.get("WANDB_API_KEY") and not _has_netrc_entry(host):
        return "no API key is set (`wandb login` sets one)"
    try:
        urllib.request.urlopen(url, timeout=timeout).close()  # through a proxy, if the environment names one
    except HTTPError:
        return None  # it answers
    except URLError as error:
        return None if isinstance(error.reason, ssl.SSLError) else f"{host} cannot be reached"
    except (OSError, ValueError, HTTPException):
        return f"{host} cannot be reached"
    return None


def _has_netrc_entry(host: str) -> bool:
    try:
        file = os.environ.get("NETRC") or expand_user("~/.netrc")
        return netrc.netrc(str(file)).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def log_probe(logger: Logger, rows: list[dict[str, Any]], figure: Path) -> None:
    """Hand the table of a probe to a tracker: a curve over the layers of each kind of features, and the figure."""
    for row in rows:
        scores = {name: value for name, value in row.items() if name.endswith("accuracy")}
        kind = str(row["features"]).replace(" ", "_")
        logger.log_metrics({"probe/layer": row["layer"], **{f"probe/{kind}/{k}": v for k, v in scores.items()}})
    if isinstance(logger, WandbLogger):
        logger.log_image("probe", [str(figure)])


def log_summary(trainer: pl.Trainer, values: dict[str, Any]) -> None:
    """Show what a run came to beside it, in W&B's tables of runs."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbTracker):
            logger.log_summary(values)


def log_picture(trainer: pl.Trainer, name: str, path: Path) -> None:
    """Hand a PNG to every tracker that shows pictures, at the step that is done, as what is measured then."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(name, [str(path)], step=None)
        elif isinstance(logger, TensorBoardLogger):
            import numpy as np
            from PIL import Image

            logger.experiment.add_image(name, np.asarray(Image.open(path)), trainer.global_step - 1, dataformats="HWC")
