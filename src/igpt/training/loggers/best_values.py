"""The best value so far of each metric of which one value is better than another."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from igpt.metric_names import Goal, goal_of
from igpt.metrics_file import read_rows


def goal_in_training(name: str) -> Goal | None:
    """The goal of a metric that is logged in the course of a run. The test is at its end."""
    return None if name.startswith("test/") else goal_of(name)


class BestValues:
    """Best values by the names of their metrics. A run that is resumed at `first_step` begins with those of the steps
    before it, which are in its metrics.csv.
    """

    def __init__(self, metrics: Path, first_step: int) -> None:
        self._best: dict[str, float] = {}
        for row in read_rows(metrics) if first_step else ():
            if int(row["step"]) < first_step:
                self.update({name: float(value) for name, value in row.items() if value})

    def update(self, metrics: Mapping[str, Any]) -> dict[str, dict[Goal, float]]:
        """The best value of each of the `metrics` that has a goal, including the given one, in the form in which W&B's
        summary has it: {"val/nats_per_token": {"min": 2.5}}.
        """
        found = {}
        for name, value in metrics.items():
            goal = goal_in_training(name)
            if goal is not None and math.isfinite(value):
                better = min if goal == "min" else max
                self._best[name] = better(value, self._best.get(name, value))
                found[name] = {goal: self._best[name]}
        return found
