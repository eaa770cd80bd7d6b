"""A study: named trials, trained on several settings with several seeds. One YAML file describes it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import yaml
from studies.cost import costs
from studies.results import Row

from igpt.errors import IgptError

RATES = ("first", "all", "best")


@dataclass(frozen=True)
class Base:
    """Where the name of a trial begins: overrides, parts that are always on, and the learning rates to try."""

    overrides: list[str] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    rate: str | None = None  # the key of the learning rate
    values: list[float] = field(default_factory=list)  # the rates to try; the first one is the usual rate
    like: str | None = None  # the base whose overrides and rates it takes


@dataclass(frozen=True)
class Setting:
    """Data and size of the model."""

    overrides: list[str]
    rates_of: str | None = None  # the setting on which learning rates are tuned; None: itself


@dataclass(frozen=True)
class Round:
    """Runs that belong together. Its duration is either a number of steps, or FLOPs (of the network and of the
    updates), which each trial fills.
    """

    trials: list[str]
    settings: list[str]
    steps: int | None = None
    flops: float | None = None
    seeds: list[int] = field(default_factory=lambda: [0])
    rates: str = "first"  # first: the usual rate; all; best: the best rate of the trial in earlier rounds

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.flops is None):
            raise IgptError(f"A round of the trials {', '.join(self.trials)} needs either steps or flops.")
        if self.rates not in RATES:
            raise IgptError(f"rates is '{self.rates}'; choose one of {', '.join(RATES)}.")


@dataclass(frozen=True)
class Run:
    """One training run. Equal overrides make equal runs, whatever their names."""

    trial: str
    setting: str
    seed: int
    steps: int
    rate: float | None
    overrides: tuple[str, ...]  # of igpt-train, sorted, one per key

    @property
    def folder(self) -> str:
        """Its folder below that of the study. The hash keeps apart what a changed study gives the same name."""
        digest = hashlib.sha256(" ".join(self.overrides).encode()).hexdigest()[:6]
        return f"{self.trial}/{self.setting}-{self.steps}-seed{self.seed}-{digest}"

    def __str__(self) -> str:
        rate = "" if self.rate is None else f", rate {self.rate:g}"
        return f"{self.trial} on {self.setting}, {self.steps} steps{rate}, seed {self.seed}"


@dataclass(frozen=True)
class Study:
    """What a study file describes, under the same names."""

    common: list[str]
    bases: dict[str, Base]
    settings: dict[str, Setting]
    rounds: list[Round]
    parts: dict[str, list[str]] = field(default_factory=dict)
    compare: list[list[str]] = field(default_factory=list)  # pairs of trials, beside each trial and its own reference
    tuning_steps: int | None = None  # learning rates are compared after this many steps; None: after those of the round
    tuning_seed: int = 0
    warmup: float | None = None  # steps of warm-up as a share of all; None: those of the overrides

    @classmethod
    def read(cls, path: Path) -> Study:
        """Read a study file; IgptError if a key of it is unknown or missing."""
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        try:
            content["bases"] = {name: Base(**base) for name, base in content["bases"].items()}
            content["settings"] = {name: Setting(**setting) for name, setting in content["settings"].items()}
            content["rounds"] = [Round(**one) for one in content["rounds"]]
            study = cls(**content)
        except (TypeError, KeyError) as error:
            raise IgptError(f"{path}: a key is unknown or missing ({error}).") from error
        study.check_names()
        return study

    def check_names(self) -> None:
        """Raise :class:`IgptError` for a setting or trial that the study names, but does not describe."""
        named = [setting for one in self.rounds for setting in one.settings]
        named += [setting.rates_of for setting in self.settings.values() if setting.rates_of]
        if unknown := sorted(set(named) - self.settings.keys()):
            raise IgptError(f"There is no setting {unknown[0]}; known are {', '.join(self.settings)}.")
        trials = [trial for one in self.rounds for pattern in one.trials for trial in self.trials_of(pattern)]
        for trial in (*trials, *(trial for pair in self.compare for trial in pair)):
            self.parts_of(trial)

    # Trials

    def base_of(self, trial: str) -> Base:
        """The base that a trial's name begins with."""
        name = re.split(r"[+-]", trial)[0]
        if name not in self.bases:
            raise IgptError(f"The trial {trial} begins with none of {', '.join(self.bases)}.")
        base = self.bases[name]
        if base.like is None:
            return base
        like = self.base_of(base.like)
        rate, values = (base.rate, base.values) if base.rate else (like.rate, like.values)
        return Base([*like.overrides, *base.overrides], [*like.parts, *base.parts], rate, values)

    def parts_of(self, trial: str) -> list[str]:
        """The parts of a trial: those of its base, then those that its name adds (+PART), without others (-PART)."""
        parts = list(self.base_of(trial).parts)
        for sign, part in re.findall(r"([+-])([^+-]*)", trial):
            if part not in self.parts:
                raise IgptError(f"The trial {trial} names the part '{part}'; known are {', '.join(self.parts)}.")
            if (part in parts) == (sign == "+"):
                raise IgptError(f"The trial {trial} {'adds a part that it has' if sign == '+' else 'lacks'}: {part}.")
            parts = [*parts, part] if sign == "+" else [other for other in parts if other != part]
        return parts

    def trials_of(self, pattern: str) -> list[str]:
        """The trials that a pattern stands for: BASE+* adds each part that BASE lacks, BASE-* takes each away."""
        if not pattern.endswith("*"):
            return [pattern]
        start, sign = pattern[:-2], pattern[-2]
        had = self.parts_of(start)
        return [f"{start}{sign}{part}" for part in self.parts if (part in had) == (sign == "-")]

    # Runs

    def run(self, trial: str, setting: str, seed: int, rate: float | None, one: Round) -> Run:
        """The run of a trial in a round."""
        base = self.base_of(trial)
        given = [*self.common, *self.settings[setting].overrides, *base.overrides]
        given += [override for part in self.parts_of(trial) for override in self.parts[part]]
        given += [] if rate is None else [f"{base.rate}={rate:g}"]
        steps = one.steps or max(1, round((one.flops or 0) / costs(merged(given)).total_flops))
        given += [] if self.warmup is None else [f"optim.warmup_steps={round(self.warmup * steps)}"]
        return Run(trial, setting, seed, steps, rate, merged([*given, f"seed={seed}", f"trainer.max_steps={steps}"]))

    def runs(self, one: Round, rows: Sequence[Row], failed: frozenset[Run] = frozenset()) -> Iterator[Run]:
        """The runs of a round in order; those whose best learning rate is not known yet are left out."""
        trials = [trial for pattern in one.trials for trial in self.trials_of(pattern)]
        most = max(len(self.rates(trial)) for trial in trials) if one.rates == "all" else 1
        for number, seed, setting, trial in product(range(most), one.seeds, one.settings, trials):
            rates = self.rates(trial)
            if one.rates == "best" and len(rates) > 1:
                rates = self.best_rate(trial, setting, one, rows, failed)
            if number < len(rates):
                yield self.run(trial, setting, seed, rates[number], one)

    def rates(self, trial: str) -> list[float] | list[None]:
        """The learning rates to try; None is that of the overrides."""
        return self.base_of(trial).values or [None]

    def best_rate(
        self, trial: str, setting: str, one: Round, rows: Sequence[Row], failed: frozenset[Run] = frozenset()
    ) -> list[float | None]:
        """The learning rate of the lowest validation loss, in a list; none until each rate was tried or failed."""
        tuned_on = self.settings[setting].rates_of or setting
        how = one if self.tuning_steps is None else Round([trial], [tuned_on], steps=self.tuning_steps)
        tried = [self.run(trial, tuned_on, self.tuning_seed, rate, how) for rate in self.rates(trial)]
        found = results_of(tried, rows)
        if not found or any(run not in found and run not in failed for run in tried):
            return []
        return [min(found, key=lambda run: found[run]["validation_nats"]).rate]

    def next_run(self, rows: Sequence[Row], taken: set[Run], failed: set[Run], chosen: Choice) -> Run | None:
        """The first run that has no row yet and that nobody else runs; None if there is none at present."""
        for one in chosen.rounds_of(self):
            runs = [run for run in self.runs(one, rows, frozenset(failed)) if chosen.wants(run)]
            done = results_of(runs, rows)
            for run in runs:
                if run not in taken and run not in done:
                    return run
        return None


@dataclass(frozen=True)
class Choice:
    """Which runs of a study to train; empty sequences choose all."""

    trials: Sequence[str] = ()
    settings: Sequence[str] = ()
    seeds: Sequence[int] = ()
    rounds: Sequence[int] = ()  # counted from 1

    def check(self, study: Study) -> None:
        """Raise :class:`IgptError` if no run can be chosen by one of the names or numbers."""
        trials = [trial for one in study.rounds for pattern in one.trials for trial in study.trials_of(pattern)]
        seeds = [seed for one in study.rounds for seed in one.seeds]
        known: dict[str, tuple[Sequence[Any], Sequence[Any]]] = {
            "trial": (self.trials, trials),
            "setting": (self.settings, list(study.settings)),
            "seed": (self.seeds, seeds),
            "round": (self.rounds, range(1, len(study.rounds) + 1)),
        }
        for kind, (asked, there) in known.items():
            for value in asked:
                if value not in there:
                    raise IgptError(f"No {kind} is {value}; choose of {', '.join(map(str, dict.fromkeys(there)))}.")

    def rounds_of(self, study: Study) -> list[Round]:
        return [one for number, one in enumerate(study.rounds, 1) if number in (self.rounds or [number])]

    def wants(self, run: Run) -> bool:
        wanted = ((self.trials, run.trial), (self.settings, run.setting), (self.seeds, run.seed))
        return all(value in (values or [value]) for values, value in wanted)


def merged(overrides: Sequence[str]) -> tuple[str, ...]:
    """Sorted overrides with one per key; of several for a key, the last one counts."""
    by_key: Mapping[str, Any] = {override.partition("=")[0]: override for override in overrides}
    return tuple(sorted(by_key.values()))


def results_of(runs: Iterable[Run], rows: Sequence[Row]) -> dict[Run, Row]:
    """The row of each run that has one. Of two, which two commands may record side by side, the first one counts."""
    by_overrides = {tuple(row["overrides"]): row for row in reversed(rows)}
    return {run: by_overrides[run.overrides] for run in runs if run.overrides in by_overrides}
