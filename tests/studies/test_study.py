"""Which runs a study file stands for, in which order, and at which learning rates."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from studies.cost import costs
from studies.study import Choice, Round, Study, merged, results_of

from composed_configuration import composed
from igpt.configuration.schema.check import check
from igpt.errors import IgptError
from studies import cost

FILES = sorted((Path(__file__).parents[2] / "experiments").glob("*/study.yml"))

SMALL = {
    "common": ["experiment=emoji_ar", "data.source.resolution=8", "trainer.precision=32-true"],
    "settings": {
        "tiny": {"overrides": ["model.n_layer=1"]},
        "deep": {"overrides": ["model.n_layer=2"], "rates_of": "tiny"},
    },
    "bases": {
        "adam": {"overrides": ["optim=adam"], "rate": "optim.lr", "values": [0.003, 0.001]},
        "full": {"like": "adam", "parts": ["ones", "twos"]},
        "plain": {},
    },
    "parts": {"ones": ["data.batch_size=1"], "twos": ["model.n_head=2"], "threes": ["model.n_head=1"]},
    "rounds": [{"trials": ["adam"], "settings": ["tiny"], "steps": 5, "rates": "all"}],
}  # fmt: skip


@pytest.fixture
def read(tmp_path):
    """A study file with these changes, read."""

    def study(**changes):
        (tmp_path / "study.yml").write_text(yaml.safe_dump({**SMALL, **changes}, sort_keys=False))
        return Study.read(tmp_path / "study.yml")

    return study


def row(run, loss):
    return {"overrides": json.loads(json.dumps(run.overrides)), "validation_nats": loss}


def test_warmup_is_a_share_of_the_steps(read):
    runs = [next(read(warmup=share).runs(Round(["plain"], ["tiny"], steps=300), [])) for share in (None, 0.05)]
    assert not any("warmup" in override for override in runs[0].overrides)
    assert "optim.warmup_steps=15" in runs[1].overrides


# Trials


def test_a_name_adds_parts_and_takes_them_away(read):
    study = read()
    assert study.parts_of("adam") == []
    assert study.parts_of("adam+twos+ones") == ["twos", "ones"]
    assert study.parts_of("full-ones") == ["twos"]
    assert study.parts_of("full-ones+threes") == ["twos", "threes"]
    assert study.trials_of("adam+*") == ["adam+ones", "adam+twos", "adam+threes"]
    assert study.trials_of("full+*") == ["full+threes"]
    assert study.trials_of("full-*") == ["full-ones", "full-twos"]


@pytest.mark.parametrize(
    ("trial", "said"),
    [
        ("sgd", "begins with none of adam, full, plain"),
        ("adam+fours", "names the part 'fours'"),
        ("adam-ones", "lacks: ones"),
        ("full+ones", "adds a part that it has: ones"),
    ],
)
def test_a_wrong_name_is_refused(read, trial, said):
    with pytest.raises(IgptError, match=said):
        read().parts_of(trial)


def test_a_wrong_name_in_a_comparison_is_refused(read):
    assert read(compare=[["full", "adam"]]).compare == [["full", "adam"]]
    with pytest.raises(IgptError, match="names the part 'fours'"):
        read(compare=[["full", "adam+fours"]])


@pytest.mark.parametrize(
    "changes",
    [
        {"other": 1},
        {"rounds": [{"trials": ["adam"], "settings": ["tiny"], "steps": 5, "rate": "all"}]},
        {"rounds": [{"trials": ["adam"], "settings": ["tiny"]}]},
        {"rounds": [{"trials": ["adam"], "settings": ["tiny"], "steps": 5, "flops": 1e9}]},
        {"rounds": [{"trials": ["adam"], "settings": ["tiny"], "steps": 5, "rates": "some"}]},
        {"rounds": [{"trials": ["adam"], "settings": ["tyni"], "steps": 5}]},
        {"rounds": [{"trials": ["adma"], "settings": ["tiny"], "steps": 5}]},
        {"settings": {**SMALL["settings"], "deep": {"overrides": [], "rates_of": "tyni"}}},
    ],
)
def test_a_wrong_file_is_refused(read, changes):
    with pytest.raises(IgptError):
        read(**changes)


def test_of_two_values_of_a_key_the_last_one_counts():
    assert merged(["b=1", "a=2", "b=3"]) == ("a=2", "b=3")


# Runs


def test_a_run_has_the_overrides_of_setting_base_parts_rate_and_seed(read):
    (run,) = read().runs(Round(["full-ones"], ["tiny"], steps=5, seeds=[7]), [])
    assert run.overrides == (
        "data.source.resolution=8", "experiment=emoji_ar", "model.n_head=2", "model.n_layer=1", "optim.lr=0.003",
        "optim=adam", "seed=7", "trainer.max_steps=5", "trainer.precision=32-true",
    )  # fmt: skip


def test_rates_seeds_settings_and_trials_are_ordered(read):
    one = Round(["adam", "plain"], ["tiny", "deep"], steps=5, seeds=[0, 1], rates="all")
    found = [(run.rate, run.seed, run.setting, run.trial) for run in read().runs(one, [])]
    assert found == [
        (0.003, 0, "tiny", "adam"), (None, 0, "tiny", "plain"), (0.003, 0, "deep", "adam"), (None, 0, "deep", "plain"),
        (0.003, 1, "tiny", "adam"), (None, 1, "tiny", "plain"), (0.003, 1, "deep", "adam"), (None, 1, "deep", "plain"),
        (0.001, 0, "tiny", "adam"), (0.001, 0, "deep", "adam"), (0.001, 1, "tiny", "adam"), (0.001, 1, "deep", "adam"),
    ]  # fmt: skip


@pytest.mark.parametrize("rates", ["first", "all", "best"])
def test_a_base_without_rates_has_one_run(read, rates):
    (run,) = read().runs(Round(["plain"], ["tiny"], steps=5, rates=rates), [])
    assert run.rate is None


def test_flops_become_steps_of_the_trial(read):
    study = read()
    (slow,) = study.runs(Round(["adam"], ["tiny"], steps=10), [])
    budget = 10 * costs(slow.overrides).flops
    (one,) = study.runs(Round(["adam+ones"], ["tiny"], flops=budget), [])
    (same,) = study.runs(Round(["adam"], ["tiny"], flops=budget), [])
    assert same == slow
    assert one.steps == 10 * 16  # with one image per step instead of 16


def test_flops_of_updates_cost_steps(read):
    study = read(bases={"muon": {"overrides": ["optim=muon"]}}, parts={}, rounds=[])
    (run,) = study.runs(Round(["muon"], ["tiny"], flops=1e13), [])
    both = costs(run.overrides).total_flops
    assert abs(run.steps * both - 1e13) <= both / 2
    assert run.steps < 0.8 * 1e13 / costs(run.overrides).flops  # Muon's share is large in so small a network


def test_the_best_rate_is_that_of_the_lowest_validation_loss(read):
    study, best = read(tuning_steps=5), Round(["adam"], ["deep"], steps=9, seeds=[1], rates="best")
    first, second = study.runs(Round(["adam"], ["tiny"], steps=5, rates="all"), [])
    assert list(study.runs(best, [row(first, 2.0)])) == []  # the other rate was not tried yet
    for losses, rate in (((2.0, 1.0), 0.001), ((1.0, 2.0), 0.003)):
        (run,) = study.runs(best, [row(first, losses[0]), row(second, losses[1])])
        assert (run.rate, run.seed, run.steps, run.setting) == (rate, 1, 9, "deep")
    (run,) = study.runs(best, [row(first, 2.0)], frozenset([second]))  # it failed
    assert run.rate == 0.003


def test_the_next_run_is_the_first_that_nobody_has_run_or_runs(read):
    study = read()
    first, second = study.runs(study.rounds[0], [])
    assert study.next_run([], set(), set(), Choice()) == first
    assert study.next_run([row(first, 1.0)], set(), set(), Choice()) == second
    assert study.next_run([], {first}, set(), Choice()) == second
    assert study.next_run([row(second, 1.0)], {first}, set(), Choice()) is None
    assert study.next_run([], set(), set(), Choice(trials=["adam"], settings=["tiny"], seeds=[0], rounds=[1])) == first
    for other in (Choice(trials=["full"]), Choice(settings=["deep"]), Choice(seeds=[1]), Choice(rounds=[2])):
        assert study.next_run([], set(), set(), other) is None


# Their cost


def test_costs_are_those_of_the_closed_form(read):
    (run,) = read().runs(Round(["plain"], ["tiny"], steps=1), [])
    tokens, width, colors, images = 64, 128, 128, 16
    assert costs(run.overrides).tokens == images * tokens
    products = 6 * tokens * (12 * width**2 + colors * width) + 12 * width * tokens**2
    assert costs(run.overrides).flops == images * products


def test_runs_that_end_at_the_same_time_are_counted_at_the_same_time(read, monkeypatch):
    """Hydra has one state per process; each run composes its configuration in a thread of its own."""
    slow = cost.compose
    monkeypatch.setattr(cost, "compose", lambda *names, **given: time.sleep(0.05) or slow(*names, **given))
    study = read(parts={str(n): [f"data.batch_size={n}"] for n in (3, 5, 7, 9)})
    runs = [next(study.runs(Round([f"plain+{n}"], ["tiny"], steps=1), [])) for n in study.parts]
    with ThreadPoolExecutor(len(runs)) as pool:
        tokens = list(pool.map(lambda run: costs(run.overrides).tokens, runs))
    assert tokens == [64 * n for n in (3, 5, 7, 9)]


def test_of_two_rows_of_a_run_the_first_counts(read):
    study = read()
    run, _ = study.runs(study.rounds[0], [])
    assert results_of([run], [row(run, 1.0), row(run, 2.0)]) == {run: row(run, 1.0)}


def test_only_muon_multiplies_matrices_in_an_update(read):
    adam, muon = (
        next(read(common=["experiment=emoji_ar", f"optim={name}"]).runs(Round(["plain"], ["tiny"], steps=1), []))
        for name in ("adam", "muon")
    )
    assert costs(adam.overrides).optimizer_flops == 0
    # Five steps: Gram matrix, its square, and their product with the matrix; four matrices of 128x128, two of 128x512.
    n = 128
    square, wide = 3 * 2 * n**3, 2 * n**3 + 2 * 2 * n**2 * 4 * n
    assert costs(muon.overrides).optimizer_flops == 5 * (4 * square + 2 * wide)


# The studies of the project


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.parent.name)
def test_every_trial_on_every_setting_passes_the_schema(path):
    study, checked = Study.read(path), set()
    for one in study.rounds:
        for trial in [trial for pattern in one.trials for trial in study.trials_of(pattern)]:
            study.base_of(trial)
            for setting in one.settings:
                run = study.run(trial, setting, 0, (study.base_of(trial).values or [None])[0], Round([], [], steps=7))
                if run.overrides not in checked:
                    config = composed("train", *run.overrides)
                    check(config, "train")
                    assert (config.trainer.max_steps, config.seed) == (7, 0)
                checked.add(run.overrides)
    assert checked
