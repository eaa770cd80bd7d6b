"""Write the generated parts of docs/recipe.md and its figure, from results in experiments/: python docs/build_recipe.py

The text between two comments `<!-- NAME -->` and `<!-- end -->` is generated; the rest of the page is written by hand.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
EXPERIMENTS = ROOT / "experiments"
PAGE = ROOT / "docs" / "recipe.md"
FIGURE = ROOT / "docs" / "figures" / "recipe.png"
sys.path.insert(0, str(EXPERIMENTS))  # for the package `studies`

from studies.results import Row, read_results  # noqa: E402
from studies.speedrun import Records  # noqa: E402
from studies.statistics import mean, pooled_deviation, standard_error, t_quantile  # noqa: E402
from studies.study import Round, Study, results_of  # noqa: E402

from igpt.planning.scaling_law import ScalingLaw  # noqa: E402

Column = tuple[str, str]  # a setting and a duration


def main() -> None:
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    figure(Ablation(Study.read(EXPERIMENTS / "ablation" / "study.yml"), ablation_rows()))


def page(text: str) -> str:
    """The text of docs/recipe.md with its generated parts renewed."""
    ablation = Ablation(Study.read(EXPERIMENTS / "ablation" / "study.yml"), ablation_rows())
    parts = {
        "losses": ablation.table(),
        "figure": figure_link(ablation),
        "differences": ablation.differences(),
        "rates": ablation.rate_table(),
        "records": record_table(),
        "law": law_text(),
    }
    for name, part in parts.items():
        start, end = f"<!-- {name} -->", "<!-- end -->"
        pattern = re.compile(f"{start}.*?{end}", re.DOTALL)
        if not pattern.search(text):
            raise ValueError(f"docs/recipe.md lacks {start} ... {end}")
        text = pattern.sub(lambda _, new=f"{start}\n{part}\n{end}": new, text)
    return text


def ablation_rows() -> list[Row]:
    return read_results(EXPERIMENTS / "ablation" / "results.jsonl")


# The ablation


@dataclass(frozen=True)
class Cell:
    """The runs of a trial on a setting for a duration, at one learning rate: one row per seed."""

    rows: list[Row]
    tuned: bool  # whether the learning rate is the best of those of the trial, which all have a result

    @property
    def losses(self) -> list[float]:
        return self.losses_on("test")

    def losses_on(self, split: str) -> list[float]:
        return [row[f"{split}_nats"] for row in self.rows]

    def by_seed(self, split: str) -> dict[int, float]:
        """The loss of each seed, in nats per token."""
        return {row["seed"]: row[f"{split}_nats"] for row in self.rows}

    def __str__(self) -> str:
        error = f" +- {standard_error(self.losses):.3f}" if len(self.rows) > 2 else ""  # two seeds say little about it
        return f"{mean(self.losses):.3f}{error} ({len(self.rows)}){'' if self.tuned else '*'}"


@dataclass(frozen=True)
class Difference:
    """Of the losses of two trials with the same seeds, on average; the standard error is None if it is not known."""

    value: float
    error: float | None = None
    freedom: int = 0  # degrees of freedom of the error

    @property
    def sign(self) -> int | None:
        """0 within the 95% interval of Student's t, otherwise that of the value; None if the error is not known."""
        if self.error is None:
            return None
        return 0 if abs(self.value) < t_quantile(self.freedom) * self.error else 1 if self.value > 0 else -1

    def __str__(self) -> str:
        if self.error is None:
            return f"{self.value:+.3f}"
        digits = 3 if self.error >= 0.001 else 4
        return f"{self.value:+.{digits}f} +- {self.error:.{digits}f}"


@dataclass(frozen=True)
class Ablation:
    """The results of the ablation, by trial and column."""

    study: Study
    rows: list[Row]

    @cached_property
    def cells(self) -> dict[tuple[str, Column], Cell]:
        found: dict[tuple[str, Column], Cell] = {}
        for one in self.study.rounds:
            for trial in (trial for pattern in one.trials for trial in self.study.trials_of(pattern)):
                for setting in one.settings:
                    key = (trial, (setting, duration(one)))
                    cell = self.cell(trial, setting, one)
                    if cell.rows and len(cell.rows) >= len(found[key].rows if key in found else []):
                        found[key] = cell
        return found

    def cell(self, trial: str, setting: str, one: Round) -> Cell:
        """The runs at the best learning rate; as long as that is not known, at the one with the most seeds."""
        best = self.study.best_rate(trial, setting, one, self.rows)
        found = []
        for rate in best or self.study.rates(trial):
            runs = [self.study.run(trial, setting, seed, rate, one) for seed in self.seeds]
            found.append(list(results_of(runs, self.rows).values()))
        return Cell(max(found, key=len), bool(best))

    @cached_property
    def seeds(self) -> list[int]:
        return sorted({seed for one in self.study.rounds for seed in one.seeds})

    @property
    def trials(self) -> list[str]:
        return list(dict.fromkeys(trial for trial, _ in self.cells))

    @property
    def columns(self) -> list[Column]:
        return sorted(dict.fromkeys(column for _, column in self.cells), key=lambda column: column[0])

    def table(self) -> str:
        """Losses by trial and column, and the FLOPs of each trial relative to those of the first one."""
        if not self.cells:
            return "No run is complete yet."
        head = ["trial", *(f"{setting}, {length}" for setting, length in self.columns), "parameters", "FLOPs"]
        rows = []
        for trial in self.trials:
            cells = [self.cells.get((trial, column)) for column in self.columns]
            rows.append([trial, *(str(cell or "") for cell in cells), *self.costs(trial)])
        return markdown(head, rows)

    def costs(self, trial: str) -> list[str]:
        """Parameters; FLOPs per step, those of the update included, relative to the first trial on the same column."""
        for column in self.columns:
            ours, first = self.cells.get((trial, column)), self.cells.get((self.trials[0], column))
            if ours and first:
                flops = per_step(ours.rows) / per_step(first.rows)
                return [f"{ours.rows[0]['parameters']:,}", f"{flops:.2f}"]
        return ["", ""]

    def differences(self) -> str:
        """What each part changes: its trial against the trial without it, on the images of both splits."""
        lines = []
        for trial, other, column in self.comparisons:
            found = [self.difference(trial, other, column, split) for split in ("validation", "test")]
            seeds = len(self.paired(trial, other, column, "test"))
            lines.append([trial, other, ", ".join(column), *map(str, found), str(seeds), verdict(found)])
        if not lines:
            return "No part can be compared yet."
        return markdown(["trial", "against", "on", "validation", "test", "seeds", "verdict"], lines)

    @cached_property
    def comparisons(self) -> list[tuple[str, str, Column]]:
        """A trial, its reference, and a column in which both have runs of a common seed, with equal tokens or FLOPs."""
        pairs = [(trial, self.reference(trial)) for trial in self.trials] + [tuple(pair) for pair in self.study.compare]
        return [
            (trial, other, column)
            for column in self.columns
            for trial, other in pairs
            if trial != other
            and {(trial, column), (other, column)} <= self.cells.keys()
            and self.paired(trial, other, column, "test")
            and (self.tokens(trial, column) == self.tokens(other, column) or "FLOPs" in column[1])
        ]

    def tokens(self, trial: str, column: Column) -> int:
        """Training tokens of each run."""
        return self.cells[trial, column].rows[0]["tokens"]

    def paired(self, trial: str, other: str, column: Column, split: str) -> list[float]:
        """The differences of two trials, one for each seed that both have."""
        mine, theirs = (self.cells[one, column].by_seed(split) for one in (trial, other))
        return [mine[seed] - theirs[seed] for seed in sorted(mine.keys() & theirs.keys())]

    def difference(self, trial: str, other: str, column: Column, split: str) -> Difference:
        """The mean difference over common seeds. Its error comes from the deviation between seeds, pooled over all
        trials that are compared with `other` in this column.
        """
        values = self.paired(trial, other, column, split)
        alike = [first for first, second, where in self.comparisons if (second, where) == (other, column)]
        within = pooled_deviation([self.paired(first, other, column, split) for first in alike])
        if within is None:
            return Difference(mean(values))
        spread, freedom = within
        return Difference(mean(values), spread / len(values) ** 0.5, freedom)

    def reference(self, trial: str) -> str:
        """The trial without the last part in the name; of a base, the base that it is like, or the first one."""
        shorter = re.sub(r"[+-][^+-]*$", "", trial)
        return shorter if shorter != trial else self.study.bases[trial].like or next(iter(self.study.bases))

    def rate_table(self) -> str:
        """Validation losses at each learning rate that was tried, of trials with several."""
        lines = []
        for setting in self.study.settings:
            for trial in self.trials:
                losses = dict(self.tried(trial, setting))
                if len(losses) > 1:
                    best = min(losses, key=losses.__getitem__)
                    edge = " (at the edge)" if best in (min(losses), max(losses)) else ""
                    shown = ", ".join(f"{rate:g}: {losses[rate]:.3f}" for rate in sorted(losses))
                    lines.append([trial, setting, self.study.base_of(trial).rate or "", shown, f"{best:g}{edge}"])
        if not lines:
            return "No learning rate is tuned yet."
        return markdown(["trial", "setting", "rate", "validation loss", "best"], lines)

    def tried(self, trial: str, setting: str) -> Iterator[tuple[float, float]]:
        """The learning rates of a trial, and the validation loss after the steps of the tuning."""
        if self.study.tuning_steps is None:
            return
        one = Round([trial], [setting], steps=self.study.tuning_steps)
        rates = self.study.base_of(trial).values
        runs = {self.study.run(trial, setting, self.study.tuning_seed, rate, one): rate for rate in rates}
        for run, row in results_of(runs, self.rows).items():
            yield runs[run], row["validation_nats"]


def duration(one: Round) -> str:
    return f"{one.steps} steps" if one.steps else f"{one.flops:.3g} FLOPs"


def per_step(rows: list[Row]) -> float:
    return mean([total_flops(row) / row["steps"] for row in rows])


def total_flops(row: Row) -> float:
    """FLOPs of the network and of the matrix products in Muon's updates."""
    return row["flops"] + row["optimizer_flops"]


def verdict(differences: list[Difference]) -> str:
    """Lower or higher if all differences are, each beyond its 95% interval."""
    signs = {one.sign for one in differences}
    if None in signs:
        return "one seed"
    return {-1: "lower", 0: "undecided", 1: "higher"}[signs.pop() if len(signs) == 1 else 0]


# Records and scaling


def record_table() -> str:
    """All records with what they reached; those that do not count say so."""
    folder = EXPERIMENTS / "speedrun"
    records, results = Records.read(folder / "records.yml"), read_results(folder / "results.jsonl")
    lines = []
    for name, record in records.records.items():
        score = records.score(name, results)
        if len(score.rows) < 2:
            continue
        (first, *_), target = score.rows, records.targets[record.target]
        loss = f"{mean(score.losses):.4f} +- {standard_error(score.losses):.4f} ({len(score.rows)})"
        cost = [f"{first['steps']:,}", f"{total_flops(first):.3g}", f"{first['tokens']:.3g}"]
        seconds = f"{mean([row['seconds'] for row in score.rows]):,.0f}"
        goal = f"{target.title}: {target.loss or 'none yet'}"
        counts = "yes" if score.counts else "no"
        lines.append([str(record.date), name, goal, record.change, *cost, seconds, loss, first["commit"], counts])
    if not lines:
        return "No record is complete yet."
    head = ["date", "record", "target", "change", "steps", "FLOPs", "tokens", "seconds", "loss", "commit", "counts"]
    return markdown(head, lines)


def law_text(folder: Path = EXPERIMENTS / "scaling") -> str:
    """The coefficients of the scaling law, its range, and the runs beside it."""
    if not (folder / "fit.json").exists():
        return "No law is fitted yet."
    law = ScalingLaw.from_json(json.loads((folder / "fit.json").read_text(encoding="utf-8")))
    ranges = {"N": law.parameters, "D": law.tokens, "FLOPs of the network": law.flops}
    spans = "; ".join(f"{name} from {low:.3g} to {high:.3g}" for name, (low, high) in ranges.items())
    noise = f"The losses of the runs deviate from it by {100 * law.noise:.2f}%"
    said = f"{law.data}, {law.runs} runs: {law}. N and D count millions. {noise}. Fitted range: {spans}."
    head = ["run", "parameters", "tokens", "steps", "FLOPs", "test loss", "by the law"]
    rows = [
        [row["trial"], f"{row['parameters']:,}", f"{row['tokens']:.3g}", f"{row['steps']:,}", f"{total_flops(row):.2g}",
         f"{row['test_nats']:.4f}", f"{law.loss(row['parameters'], row['tokens']):.4f}"]
        for row in sorted(read_results(folder / "results.jsonl"), key=lambda row: (total_flops(row), row["parameters"]))
    ]  # fmt: skip
    return f"{said}\n\n{markdown(head, rows)}"


def markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# The figure


def figure_link(ablation: Ablation) -> str:
    if not ablation.cells:
        return "No run is complete yet."
    return f"![Test loss against FLOPs, one plot per setting](figures/{FIGURE.name})"


def figure(ablation: Ablation) -> None:
    """Test loss against FLOPs, one plot per setting, of trials that were trained for several durations."""
    from igpt.figures import render, save

    settings = list(dict.fromkeys(setting for setting, _ in ablation.columns))
    if not settings:
        return
    drawn, all_axes = plots(len(settings))
    for axes, setting in zip(all_axes, settings, strict=True):
        for trial in ablation.trials:
            points = sorted(
                (mean([total_flops(row) for row in cell.rows]), mean(cell.losses))
                for (name, column), cell in ablation.cells.items()
                if name == trial and column[0] == setting
            )
            if len({flops for flops, _ in points}) > 1:
                axes.plot(*zip(*points, strict=True), marker="o", label=trial)
            elif points:
                axes.plot(*points[0], marker=".", color="gray")
        axes.set(xlabel="FLOPs of training", ylabel="test loss, nats per token", title=setting, xscale="log")
        axes.tick_params("x", which="both", labelrotation=30)
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8)
    save(render(drawn), FIGURE)


def plots(n: int) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(5 * n, 4), dpi=120, layout="constrained")
    return drawn, list(drawn.subplots(1, n, squeeze=False)[0])


if __name__ == "__main__":
    main()
