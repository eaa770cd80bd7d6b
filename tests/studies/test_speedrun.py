"""A record of the speed-run counts only if it surely reaches its target."""

from pathlib import Path

import pytest
from scipy import stats
from studies.results import read_results
from studies.runner import run_study
from studies.speedrun import Records, Score
from studies.statistics import deviation, pooled_deviation, standard_error, t_quantile
from studies.study import Choice

from composed_configuration import composed
from igpt.configuration.schema.check import check
from igpt.errors import IgptError

FILE = Path(__file__).parents[2] / "experiments" / "speedrun" / "records.yml"
RECORDS = Records.read(FILE)


def score(target, *losses):
    return Score("r", target, [{"test_nats": loss} for loss in losses])


def test_errors_are_those_of_the_closed_form():
    assert deviation([1.0, 2.0, 3.0]) == pytest.approx(1)
    assert standard_error([1.0, 2.0, 3.0]) == pytest.approx(3**-0.5)
    deviation_within, freedom = pooled_deviation([[1.0, 2.0, 3.0], [0.0, 4.0], [7.0]])
    assert deviation_within == pytest.approx(((2 * 1 + 8) / 3) ** 0.5)
    assert freedom == 3
    for freedom in range(1, 31):
        assert t_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), abs=0.005)
    assert t_quantile(60) >= stats.t.ppf(0.975, 60)
    assert pooled_deviation([[1.0], []]) is None


def test_a_record_counts_by_the_interval_of_its_mean():
    bound = 1.1 + 4.30 * 0.1 / 3**0.5
    assert score(bound + 1e-6, 1.0, 1.1, 1.2).counts
    assert not score(bound - 1e-6, 1.0, 1.1, 1.2).counts
    assert "1.1000 + 4.30 x 0.0577 = 1.3483 is below the target of 1.4" in score(1.4, 1.0, 1.1, 1.2).accepted()


@pytest.mark.parametrize(
    ("target", "losses", "said"),
    [
        (1.2, (1.0, 1.1, 1.2), "1.3483 is not below the target of 1.2"),
        (1.3, (1.0, 1.1), "2 of 3 seeds"),
        (None, (1.0, 1.1, 1.2), "no loss yet"),
    ],
)
def test_other_records_are_refused(target, losses, said):
    assert not score(target, *losses).counts
    with pytest.raises(IgptError, match=said):
        score(target, *losses).accepted()


@pytest.mark.parametrize("name", RECORDS.records)
def test_every_record_trains_three_seeds_and_passes_the_schema(name):
    first, *others = RECORDS.runs(name)
    assert [run.seed for run in (first, *others)] == [0, 1, 2]
    config = composed("train", *first.overrides)
    check(config, "train")
    assert config.trainer.max_steps == RECORDS.records[name].steps


def test_only_the_runs_of_the_record_are_trained(tmp_path):
    def train(run, out, threads):
        return {"test_nats": 1.0 + run.seed / 1000, "seconds": 1.0, "overrides": list(run.overrides)}

    name, *_ = RECORDS.records
    results = tmp_path / "results.jsonl"
    assert run_study(RECORDS.study, Choice(trials=[name]), results, tmp_path, 2, None, train) == []
    assert sorted(RECORDS.score(name, read_results(results)).losses) == [1.0, 1.001, 1.002]
