"""Runs as igpt-runs shows them, read from their directories: status, configuration, best values."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from igpt.errors import IgptError
from igpt.metrics_file import read_columns
from igpt.nested import leaves, value_at
from igpt.run_directory import RunDirectory
from igpt.stored_run import StoredRun

log = logging.getLogger(__name__)

COLUMNS = (
    "name", "data", "model", "objective", "status", "steps", "monitor", "best", "probe", "updated", "path",
)  # fmt: skip


class RunRecord:
    """What is known of a run. Subclasses have an attribute for each of COLUMNS, which is None where it is not known;
    `updated` is a time in seconds since 1970. What takes time to read is read when it is asked for.
    """

    config: Mapping[str, Any]  # the composed configuration, with interpolations
    summary: Mapping[str, Any]  # the results; empty before the end
    error: str | None = None  # why the run failed, if that is known

    def value(self, key: str) -> Any:
        """A column, a result, a key of the configuration or a logged metric; None if the run does not have it."""
        if key in COLUMNS:
            return getattr(self, key)
        for name in (key, f"best/{key}"):
            if name in self.summary:
                return self.summary[name]
        if "/" in key:
            return self.logged(key)
        return configured(self.config, key)

    def logged(self, name: str) -> float | None:
        """The best value of a metric, or its last one if neither small nor large ones are better."""
        return None

    def known_keys(self) -> Iterator[str]:
        """All keys that have values."""
        yield from COLUMNS
        yield from self.summary
        yield from (key for key, _ in leaves(self.config))


class LocalRun(StoredRun, RunRecord):  # type: ignore[misc, override]  # its attributes are read-only
    """A run directory; its name is the path below the folder in which it was found."""

    def __init__(self, run: RunDirectory, folder: Path) -> None:
        super().__init__(run)
        self.name = str(run.path.relative_to(folder))
        self.path = str(run.path)

    @property
    def data(self) -> str | None:
        return self.choices.get("data")

    @property
    def model(self) -> str | None:
        return self.choices.get("model")

    @property
    def objective(self) -> str | None:
        return self.choices.get("objective")

    @property
    def probe(self) -> float | None:
        """The accuracy that igpt-probe reports, or the best one of an online probe."""
        return self.best_values().get("probe/accuracy") if self.probe_accuracy is None else self.probe_accuracy

    @property
    def updated(self) -> float:
        files = (self.run.config, self.run.metrics, self.run.last, self.run.summary)
        return max(file.stat().st_mtime for file in files if file.exists())

    def value(self, key: str) -> Any:
        """As in the base class; None where a file is damaged, so that a list of runs does not end at one of them."""
        try:
            return super().value(key)
        except IgptError as error:
            warn_once(str(error))
            return None

    def logged(self, name: str) -> float | None:
        return self.best_of(name)

    def known_keys(self) -> Iterator[str]:
        yield from super().known_keys()
        yield from read_columns(self.run.metrics)


@functools.cache
def warn_once(text: str) -> None:
    log.warning("%s", text)


def local_runs(folder: Path) -> Iterator[LocalRun]:
    """The run directories of igpt-train in a folder and below it, in no particular order."""
    for run in run_directories(folder):
        record = LocalRun(run, folder)
        if is_training(record.config):
            yield record


def run_directories(folder: Path) -> Iterator[RunDirectory]:
    """The directories in a folder and below it that have a configuration. What is below them is not searched."""
    for parent, folders, _ in os.walk(folder):
        run = RunDirectory(Path(parent))
        if run.config.exists():
            folders.clear()
            yield run


def is_training(config: Mapping[str, Any]) -> bool:
    """Whether this is a configuration of igpt-train, and not of another command or program."""
    return {"model", "objective", "monitor"} <= config.keys()


def configured(config: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key; lists as text. Only interpolations take time."""
    value = value_at(config, key.split("."))
    if isinstance(value, str) and "${" in value:
        try:
            value = OmegaConf.select(OmegaConf.create(dict(config)), key)
        except Exception:  # of a resolver that does not exist here, such as Hydra's
            return value
    return str(value) if isinstance(value, list | dict) else value
