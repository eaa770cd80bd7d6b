"""What the directory of a run tells: configuration, status, metrics and results, each read when it is asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any

from igpt.files import parse_yaml, read_json
from igpt.metric_names import Goal, goal_of, monitored_goal
from igpt.metrics_file import Series, last_step, read_rows, read_series
from igpt.run_directory import RunDirectory
from igpt.run_status import error_of, is_summarized, status_of


class StoredRun:
    """A run, read from its directory. What is not there is empty, or None, as is a configuration that cannot be read.
    Raises :class:`~igpt.errors.IgptError` for other files that are damaged.
    """

    def __init__(self, run: RunDirectory) -> None:
        self.run = run

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The configuration with all later changes, and interpolations as text."""
        file = self.run.resumed_config if self.run.resumed_config.exists() else self.run.config
        return mapping_in(text_of(file))

    @cached_property
    def choices(self) -> Mapping[str, str]:
        """The choice of each group of the configuration at the start of the run."""
        # The file is long, and only one block of it is needed.
        _, _, after = text_of(self.run.config.with_name("hydra.yaml")).partition("\n    choices:\n")
        block = takewhile(lambda line: line.startswith("      "), after.splitlines())
        choices = mapping_in("\n".join(line.strip() for line in block))
        return {group: str(choice) for group, choice in choices.items() if choice is not None}

    @property
    def arguments(self) -> list[str] | None:
        """The arguments of the command that began the run."""
        file = self.run.config.with_name("overrides.yaml")
        return [str(argument) for argument in parse_yaml(text_of(file)) or []] if file.exists() else None

    @property
    def changes(self) -> list[Mapping[str, Any]]:
        """What each resume changed, from which step on."""
        return list(parse_yaml(text_of(self.run.changes)) or [])

    @property
    def starts(self) -> list[Mapping[str, Any]]:
        """Each start of training, with the code, the packages and the device."""
        return list(read_json(self.run.environment, otherwise=[]))

    @cached_property
    def status(self) -> str:
        return status_of(self.run)

    @property
    def error(self) -> str | None:
        """Why the run failed, if it did."""
        return error_of(self.run) if self.status == "failed" else None

    @cached_property
    def summary(self) -> Mapping[str, Any]:
        """The results; empty if the run was trained further since."""
        return dict(read_json(self.run.summary)) if is_summarized(self.run) else {}

    @cached_property
    def series(self) -> Series:
        """The logged values of each metric, with their steps."""
        return read_series(self.run.metrics)

    @property
    def steps(self) -> int:
        """The steps done, as far as they are logged."""
        return max(int(self.summary.get("steps", 0)), last_step(self.run.metrics) + 1)

    @property
    def monitor(self) -> str:
        return str(self.config.get("monitor", "val/nats_per_token"))

    @property
    def best(self) -> float | None:
        """The best value of the monitored metric."""
        return self.best_of(self.monitor)

    def best_of(self, metric: str) -> float | None:
        """The best of the finite values of a metric, or the last one if neither small nor large ones are better."""
        if (best := self.summary.get(f"best/{metric}")) is not None:
            return float(best)
        values = [value for _, value in self.series.get(metric, []) if math.isfinite(value)]
        if not values:
            return None
        goal = self._goal(metric)
        return values[-1] if goal is None else max(values) if goal == "max" else min(values)

    def _goal(self, metric: str) -> Goal | None:
        return monitored_goal(self.config) if metric == self.monitor else goal_of(metric)

    def best_values(self) -> dict[str, float | None]:
        """The best values of the monitored metric, of accuracy, and of the online probe over all layers."""
        if self.summary:
            return {name[5:]: value for name, value in self.summary.items() if name.startswith("best/")}
        found = {name: self.best_of(name) for name in (self.monitor, "val/accuracy")}
        layers = [self.best_of(name) for name in self.series if name.startswith("probe/layer_")]
        found["probe/accuracy"] = max((value for value in layers if value is not None), default=None)
        return {name: value for name, value in found.items() if value is not None or name == self.monitor}

    @cached_property
    def probe_summary(self) -> Mapping[str, Any]:
        """What igpt-probe reports where one number is needed."""
        return dict(read_json(self.run.probe / "summary.json"))

    @property
    def probe_accuracy(self) -> float | None:
        """Test accuracy of the probe on the layer that igpt-probe reports."""
        found = [
            value
            for name, value in self.probe_summary.items()
            if name.startswith("probe/trained") and name.endswith("/test_accuracy")  # or trained_attention, ...
        ]
        return float(found[0]) if found else None

    @cached_property
    def accuracies(self) -> list[dict[str, str]]:
        """The rows of the table that igpt-probe writes."""
        return list(read_rows(self.run.probe / "accuracy.csv"))

    @cached_property
    def few_labels(self) -> list[dict[str, str]]:
        """The rows of its table for few labels."""
        return list(read_rows(self.run.probe / "low_label.csv"))


def text_of(file: Path) -> str:
    """The content of a text file; empty if there is none."""
    return file.read_text(encoding="utf-8") if file.exists() else ""


def mapping_in(text: str) -> dict[str, Any]:
    """A mapping in YAML; empty if the text is something else."""
    content = parse_yaml(text)
    return content if isinstance(content, dict) else {}
