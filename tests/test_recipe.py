"""docs/recipe.md has the tables of the results."""

from dataclasses import replace
from pathlib import Path

import build_recipe
import pytest
from studies.study import Base, Round, Setting, Study

ROOT = Path(__file__).parents[1]
STUDY = Study(
    common=["experiment=emoji_ar"],
    bases={"adam": Base(rate="optim.lr", values=[0.003, 0.001]), "muon": Base(["optim=muon"])},
    settings={"tiny": Setting(["model=nano"])},
    rounds=[
        Round(["adam", "muon", "muon+a", "muon+b"], ["tiny"], steps=5, rates="all"),
        Round(["adam", "muon"], ["tiny"], steps=5, rates="best", seeds=[0, 1, 2]),
        Round(["muon"], ["tiny"], steps=10),
    ],
    parts={"a": ["model.n_head=2"], "b": ["model.n_head=1"]},
    tuning_steps=5,
)


def row(trial, loss, seed=0, rate=None, steps=5, validation=None):
    run = STUDY.run(trial, "tiny", seed, rate, Round([trial], ["tiny"], steps=steps))
    return {
        "overrides": list(run.overrides), "test_nats": loss, "validation_nats": validation or loss, "steps": steps,
        "seed": seed, "tokens": steps * 100, "flops": steps * 1e9,
        "optimizer_flops": 0 if trial == "adam" else steps * 1e8,
        "seconds": steps * (2.0 if trial == "adam" else 1.0), "parameters": 1000,
    }  # fmt: skip


ROWS = [
    row("adam", 2.0, rate=0.003), row("adam", 3.0, rate=0.001, validation=1.5), row("adam", 3.2, seed=1, rate=0.001),
    row("muon", 1.0), row("muon", 1.3, seed=1), row("muon+a", 0.5), row("muon", 0.8, steps=10),
    row("muon+b", 0.9), row("muon+b", 1.5, seed=1), row("muon+b", 9.0, seed=2),
]  # fmt: skip
ABLATION = build_recipe.Ablation(STUDY, ROWS)


def cells(table):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_the_page_is_that_of_the_results():
    text = (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8")
    assert text == build_recipe.page(text), "run python docs/build_recipe.py"


def test_a_page_without_a_place_for_a_table_is_refused():
    with pytest.raises(ValueError, match="lacks <!-- losses -->"):
        build_recipe.page("# Recipe\n")


def test_losses_are_those_at_the_best_learning_rate():
    assert ABLATION.columns == [("tiny", "5 steps"), ("tiny", "10 steps")]
    assert cells(ABLATION.table()) == [
        ["adam", "3.100 (2)", "", "1,000", "1.00"],
        ["muon", "1.150 (2)", "0.800 (1)", "1,000", "1.10"],
        ["muon+a", "0.500 (1)", "", "1,000", "1.10"],
        ["muon+b", "3.800 +- 2.606 (3)", "", "1,000", "1.10"],
    ]


def test_a_rate_that_was_not_tuned_has_a_star():
    (untuned,) = cells(build_recipe.Ablation(STUDY, ROWS[:1]).table())
    assert untuned[1] == "2.000 (1)*"


def test_a_rate_that_failed_hides_no_other():
    """The study goes on with the best of the other rates; the cell has their seeds, and a star."""
    adam, *_ = cells(build_recipe.Ablation(STUDY, ROWS[1:]).table())
    assert adam[1] == "3.100 (2)*"


def test_differences_are_between_equal_seeds():
    # muon - adam is -2 and -1.9 on the test images, -0.5 and -1.9 on the validation images; muon+b - muon -0.1 and 0.2.
    # The error of muon+a, which has one seed, comes from the other trial that is compared with muon.
    assert cells(ABLATION.differences()) == [
        ["muon", "adam", "tiny, 5 steps", "-1.200 +- 0.700", "-1.950 +- 0.050", "2", "undecided"],
        ["muon+a", "muon", "tiny, 5 steps", "-0.500 +- 0.212", "-0.500 +- 0.212", "1", "undecided"],
        ["muon+b", "muon", "tiny, 5 steps", "+0.050 +- 0.150", "+0.050 +- 0.150", "2", "undecided"],
    ]


def test_pairs_that_the_study_names_are_compared_too():
    named = build_recipe.Ablation(replace(STUDY, compare=[["muon+b", "muon+a"]]), ROWS)
    assert cells(named.differences())[-1] == ["muon+b", "muon+a", "tiny, 5 steps", "+0.400", "+0.400", "1", "one seed"]


def test_a_single_seed_gives_no_error():
    alone = build_recipe.Ablation(STUDY, [row("muon", 1.0), row("muon+a", 0.5)])
    assert cells(alone.differences()) == [["muon+a", "muon", "tiny, 5 steps", "-0.500", "-0.500", "1", "one seed"]]


def test_equal_steps_with_other_batches_are_not_compared():
    smaller = {**row("muon+a", 0.5), "tokens": 250}
    assert build_recipe.Ablation(STUDY, [row("muon", 1.0), smaller]).differences() == "No part can be compared yet."


@pytest.mark.parametrize(
    ("validation", "test", "said"),
    [
        ((-0.3, 0.1, 9), (-0.23, 0.1, 9), "lower"),  # 2.26 standard errors
        ((0.3, 0.1, 9), (0.23, 0.1, 9), "higher"),
        ((-0.22, 0.1, 9), (-0.3, 0.1, 9), "undecided"),
        ((-0.3, 0.1, 9), (-1.2, 0.1, 1), "undecided"),  # 12.7 standard errors
        ((-0.3, 0.1, 9), (0.3, 0.1, 9), "undecided"),
        ((1,), (1,), "one seed"),
    ],
)
def test_only_a_difference_on_both_splits_beyond_the_interval_counts(validation, test, said):
    assert build_recipe.verdict([build_recipe.Difference(*validation), build_recipe.Difference(*test)]) == said


def test_the_best_rate_may_be_at_the_edge():
    assert cells(ABLATION.rate_table()) == [
        ["adam", "tiny", "optim.lr", "0.001: 1.500, 0.003: 2.000", "0.001 (at the edge)"]
    ]


def test_the_figure_shows_each_setting(tmp_path, monkeypatch):
    monkeypatch.setattr(build_recipe, "FIGURE", tmp_path / "figure.png")
    build_recipe.figure(ABLATION)
    assert (tmp_path / "figure.png").stat().st_size > 5000
