"""Runs as igpt-runs shows them, read from their directories: status, configuration, best values."""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from igpt.configuration.stored import choices_of, read_yaml
from igpt.metric_names import goal_of, monitored_goal
from igpt.metrics_file import last_step, read_columns, read_rows
from igpt.run_directory import RunDirectory
from igpt.run_status import is_summarized, status_of

COLUMNS = (
    "name", "data", "model", "objective", "status", "steps", "monitor", "best", "probe", "updated", "path",
)  # fmt: skip


class RunRecord:
    """What is known of a run. Subclasses have an attribute for each of COLUMNS, which is None where it is not known;
    `updated` is a time in seconds since 1970. What takes time to read is read when it is asked for.
    """

    config: dict[str, Any]  # the composed configuration, with interpolations
    summary: dict[str, Any]  # the results; empty before the end
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
        yield from dotted(self.config)


class LocalRun(RunRecord):
    """A run directory; its name is the path below the folder in which it was found."""

    def __init__(self, run: RunDirectory, folder: Path) -> None:
        self.run = run
        self.name = str(run.path.relative_to(folder))
        self.path = str(run.path)

    @functools.cached_property
    def config(self) -> dict[str, Any]:  # type: ignore[override]
        file = self.run.resumed_config if self.run.resumed_config.exists() else self.run.config
        return read_yaml(file.read_text(encoding="utf-8"))

    @functools.cached_property
    def summary(self) -> dict[str, Any]:  # type: ignore[override]
        return read_json(self.run.summary) if is_summarized(self.run) else {}

    @functools.cached_property
    def _choices(self) -> dict[str, str]:
        return choices_of(self.run)

    @property
    def data(self) -> str | None:
        return self._choices.get("data")

    @property
    def model(self) -> str | None:
        return self._choices.get("model")

    @property
    def objective(self) -> str | None:
        return self._choices.get("objective")

    @property
    def steps(self) -> int:
        return max(self.summary.get("steps", 0), last_step(self.run.metrics) + 1)

    @property
    def monitor(self) -> str:
        return str(self.config["monitor"])

    @property
    def best(self) -> float | None:
        """The best value of the monitored metric."""
        best: float | None = self.value(self.monitor)
        return best

    @property
    def updated(self) -> float:
        files = (self.run.config, self.run.metrics, self.run.last, self.run.summary)
        return max(file.stat().st_mtime for file in files if file.exists())

    @functools.cached_property
    def status(self) -> str:
        return status_of(self.run)

    @property
    def error(self) -> str | None:  # type: ignore[override]
        if self.status != "failed":
            return None
        return (
            self.run.error.read_text(encoding="utf-8").strip() if self.run.error.exists() else self.run.job()["error"]
        )

    @property
    def probe(self) -> float | None:
        """The accuracy that igpt-probe reports, or the best one of an online probe."""
        for name, value in read_json(self.run.probe / "summary.json").items():
            if name.startswith("probe/trained") and name.endswith("/test_accuracy"):
                return float(value)
        if "best/probe/accuracy" in self.summary:
            return float(self.summary["best/probe/accuracy"])
        layers = [name for name in read_columns(self.run.metrics) if name.startswith("probe/layer_")]
        values = [value for name in layers if (value := self.logged(name)) is not None]
        return max(values, default=None)

    def logged(self, name: str) -> float | None:
        goal = monitored_goal(self.config) if name == self.monitor else goal_of(name)
        values = self._metrics.get(name, [])
        if not values:
            return None
        return values[-1] if goal is None else max(values) if goal == "max" else min(values)

    @functools.cached_property
    def _metrics(self) -> dict[str, list[float]]:
        """The finite values of each column of metrics.csv."""
        found: dict[str, list[float]] = {}
        for row in read_rows(self.run.metrics):
            for name, text in row.items():
                if text and math.isfinite(value := float(text)):
                    found.setdefault(name, []).append(value)
        return found

    def known_keys(self) -> Iterator[str]:
        yield from super().known_keys()
        yield from read_columns(self.run.metrics)


def local_runs(folder: Path) -> Iterator[LocalRun]:
    """The run directories of igpt-train in a folder and below it, in no particular order."""
    for parent, folders, _ in os.walk(folder):
        run = RunDirectory(Path(parent))
        if run.config.exists():
            folders.clear()
            record = LocalRun(run, folder)
            if is_training(record.config):
                yield record


def is_training(config: dict[str, Any]) -> bool:
    """Whether this is a configuration of igpt-train, and not of another command or program."""
    return {"model", "objective", "monitor"} <= config.keys()


def configured(config: dict[str, Any], key: str) -> Any:
    """The value at a dotted key; lists as text. Only interpolations take time."""
    value: Any = config
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            return None
        value = value[part]
    if isinstance(value, str) and "${" in value:
        try:
            value = OmegaConf.select(OmegaConf.create(config), key)
        except Exception:  # of a resolver that does not exist here, such as Hydra's
            return value
    return str(value) if isinstance(value, list | dict) else value


def dotted(config: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """The dotted keys of all single values."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from dotted(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def read_json(file: Path) -> dict[str, Any]:
    """An object in a file; empty if there is no file, or nothing that can be read."""
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}
