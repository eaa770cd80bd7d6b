"""A run in a report: what is read from its directory."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from igpt.errors import IgptError
from igpt.files import printable
from igpt.metric_names import monitored_goal
from igpt.metrics_file import read_rows
from igpt.reporting.charts import Series, read_series
from igpt.run_directory import RunDirectory
from igpt.run_status import is_summarized, status_of


@dataclass(frozen=True)
class ReportedRun:
    """A run in a report: its directory, its configuration, and the overrides in which the jobs of its sweep differ.

    The `name` is unique in the report.
    """

    name: str
    run: RunDirectory
    config: Mapping[str, Any]
    changes: Sequence[Mapping[str, Any]] = ()  # of .hydra/changes.yaml
    overrides: Sequence[str] = ()
    arguments: Sequence[str] = ()  # of the command that began the run

    @property
    def label(self) -> str:
        """The name, with what the run has of its own."""
        return printable(f"{self.name}: {' '.join(self.overrides)}" if self.overrides else self.name)

    @cached_property
    def series(self) -> Series:
        return read_series(self.run.metrics)

    @cached_property
    def summary(self) -> Mapping[str, Any]:
        return dict(read_json(self.run.summary)) if is_summarized(self.run) else {}

    @cached_property
    def status(self) -> str:
        return status_of(self.run)

    @property
    def monitor(self) -> str:
        return str(self.config.get("monitor", "val/nats_per_token"))

    @property
    def best(self) -> float | None:
        """The best value of the monitored metric."""
        values = [value for _, value in self.series.get(self.monitor, []) if math.isfinite(value)]
        choose = max if monitored_goal(self.config) == "max" else min
        return choose(values, default=None)

    @property
    def done(self) -> int:
        """The steps done, as far as they are logged."""
        return max((points[-1][0] + 1 for points in self.series.values()), default=0)

    @property
    def steps(self) -> str:
        """The steps done, of those planned."""
        planned = self.config.get("trainer", {}).get("max_steps")
        return f"{self.done:,} of {planned:,}" if isinstance(planned, int) and planned > 0 else f"{self.done:,}"

    @cached_property
    def probe(self) -> list[dict[str, str]]:
        """The rows of probe/accuracy.csv; none if the run was not probed."""
        return list(read_rows(self.run.probe / "accuracy.csv"))

    @cached_property
    def low_label(self) -> list[dict[str, str]]:
        """The rows of probe/low_label.csv; none if no probe had few labels."""
        return list(read_rows(self.run.probe / "low_label.csv"))

    @cached_property
    def probe_summary(self) -> Mapping[str, Any]:
        """What igpt-probe reports where one number is needed; empty if the run was not probed."""
        return dict(read_json(self.run.probe / "summary.json"))

    @property
    def probe_accuracy(self) -> float | None:
        """Test accuracy of the probe on the layer that igpt-probe reports."""
        return self.probe_summary.get("probe/trained/test_accuracy")


def read_json(file: Path) -> Any:
    """The content of a JSON file; an empty dict if there is none."""
    try:
        return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    except ValueError as error:
        raise IgptError(f"{file} is damaged ({error}); restore it, or move it away.") from None
