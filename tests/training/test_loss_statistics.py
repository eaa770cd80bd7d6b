"""Spikes of the loss, against averages over all losses that are written out."""

import dataclasses
import math

import numpy as np
import pytest

from igpt.training.loss_statistics import LossStatistics


def losses(n, seed=0):
    random = np.random.default_rng(seed)
    return (3 + 2 * np.exp(-np.arange(n) / 10) + 0.05 * random.standard_normal(n)).tolist()


def weighted(values, horizon):
    """Mean and standard deviation of the values with exponential weights: equal ones in the first `horizon` steps."""
    weights = np.ones(0)
    for n in range(1, len(values) + 1):
        share = max(1 / n, 1 / horizon)
        weights = np.append(weights * (1 - share), share)
    mean = (weights * values).sum()
    return mean, math.sqrt((weights * (values - mean) ** 2).sum())


def test_averages_are_exponentially_weighted():
    statistics, values = LossStatistics(50, 20), losses(70)
    for step, loss in enumerate(values):
        assert statistics.add(step, loss) is None
    assert (statistics.mean, math.sqrt(statistics.variance)) == pytest.approx(weighted(np.array(values), 20))


def test_a_spike_is_found_and_not_reported_again_at_once():
    statistics, values = LossStatistics(6, 40), losses(600)
    values[35] += 1.0  # too early to know
    for step in (450, 451, 460, 500):
        values[step] += 1.0
    values[470] = math.nan
    found = [spike for step, loss in enumerate(values) if (spike := statistics.add(step, loss))]
    assert [spike.step for spike in found] == [450, 500]
    assert found[0].loss == values[450]
    assert found[0].mean == pytest.approx(np.mean(values[410:450]), abs=0.05)


def test_a_loss_that_stays_high_becomes_normal():
    statistics = LossStatistics(6, 40)
    values = np.concatenate([losses(600), 3 + np.array(losses(1000)[600:])])
    found = [spike.step for step, loss in enumerate(values.tolist()) if (spike := statistics.add(step, loss))]
    assert found[0] == 600
    assert found[-1] < 700


@pytest.mark.parametrize("at", [1, 60, 451])
def test_the_state_continues_exactly(at):
    values = losses(600)
    values[450] += 1.0
    values[480] += 1.0
    whole, before = LossStatistics(6, 40), LossStatistics(6, 40)
    found = [spike for step, loss in enumerate(values) if (spike := whole.add(step, loss))]
    first = [spike for step, loss in enumerate(values[:at]) if (spike := before.add(step, loss))]
    after = LossStatistics(**dataclasses.asdict(before))
    second = [spike for step, loss in enumerate(values[at:], at) if (spike := after.add(step, loss))]
    assert (first + second, after) == (found, whole)
    assert [spike.step for spike in found] == [450]
