"""Records of the speed-run: recipes that reach a target loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import yaml
from studies.results import Row
from studies.statistics import mean, standard_error, t_quantile
from studies.study import Base, Round, Run, Setting, Study, results_of

from igpt.errors import IgptError

SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Target:
    """The loss to reach on some data, in nats per token of the test images; None as long as it is not known."""

    title: str
    loss: float | None
    overrides: list[str]


@dataclass(frozen=True)
class Record:
    """A recipe for a target."""

    target: str
    date: date
    change: str  # in words: what is new
    steps: int
    overrides: list[str]


@dataclass(frozen=True)
class Score:
    """What a record reached."""

    record: str
    target: float | None
    rows: Sequence[Row]  # one per seed

    @property
    def losses(self) -> list[float]:
        return [row["test_nats"] for row in self.rows]

    @property
    def bound(self) -> float:
        """The upper end of the 95% interval of the mean loss, by Student's t."""
        return mean(self.losses) + t_quantile(len(self.losses) - 1) * standard_error(self.losses)

    @property
    def counts(self) -> bool:
        return len(self.rows) >= len(SEEDS) and self.target is not None and self.bound < self.target

    def accepted(self) -> str:
        """The sentence for a record that counts; IgptError for one that does not."""
        if len(self.rows) < len(SEEDS):
            raise IgptError(f"{self.record} has {len(self.rows)} of {len(SEEDS)} seeds; train the others.")
        factor = t_quantile(len(self.rows) - 1)
        error = f"{factor:.2f} x {standard_error(self.losses):.4f}"
        said = f"{self.record}: {mean(self.losses):.4f} + {error} = {self.bound:.4f}"
        if self.target is None:
            raise IgptError(f"{said} nats per token; its target has no loss yet, see records.yml.")
        if not self.counts:
            raise IgptError(f"{said} is not below the target of {self.target} nats per token: no record.")
        return f"{said} is below the target of {self.target} nats per token: the record counts."


@dataclass(frozen=True)
class Records:
    """What records.yml describes."""

    common: list[str]
    targets: dict[str, Target]
    records: dict[str, Record]

    @classmethod
    def read(cls, path: Path) -> Records:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        targets = {name: Target(**target) for name, target in content["targets"].items()}
        records = {name: Record(**record) for name, record in content["records"].items()}
        return cls(content["common"], targets, records)

    @property
    def study(self) -> Study:
        """The records as a study: a record is a trial, a target is a setting."""
        return Study(
            self.common,
            {name: Base(overrides=record.overrides) for name, record in self.records.items()},
            {name: Setting(target.overrides) for name, target in self.targets.items()},
            [Round([name], [one.target], steps=one.steps, seeds=list(SEEDS)) for name, one in self.records.items()],
        )

    def runs(self, name: str) -> list[Run]:
        study = self.study
        return list(study.runs(study.rounds[list(self.records).index(name)], []))

    def score(self, name: str, results: Sequence[Row]) -> Score:
        """What a record reached, according to the rows in `results`."""
        rows = results_of(self.runs(name), results)
        return Score(name, self.targets[self.records[name].target].loss, list(rows.values()))
