import numpy as np
import pytest
from scipy.stats import sem

from igpt.evaluation.standard_error import standard_error


def test_it_agrees_with_a_bootstrap_over_groups():
    """The bootstrap samples whole groups with replacement, and takes the standard deviation of the mean."""
    rng = np.random.default_rng(0)
    groups = rng.permutation(np.repeat(np.arange(200), rng.integers(1, 12, 200)))
    values = rng.normal(size=200)[groups] + 0.5 * rng.normal(size=len(groups))
    sizes, sums = np.bincount(groups), np.bincount(groups, values)
    resampled = rng.integers(200, size=(20_000, 200))
    bootstrap = (sums[resampled].sum(1) / sizes[resampled].sum(1)).std()
    assert standard_error(values, groups) == pytest.approx(bootstrap, rel=0.03)
    assert sem(values) < 0.6 * bootstrap  # the standard error of independent images


def test_groups_of_one_give_the_usual_standard_error():
    values = np.random.default_rng(0).normal(size=(3, 50))
    np.testing.assert_allclose(standard_error(values, -1 - np.arange(50)), sem(values, axis=1))


def test_copies_of_images_do_not_reduce_it():
    values, groups = np.random.default_rng(0).normal(size=50), np.arange(50)
    assert standard_error(np.tile(values, 7), np.tile(groups, 7)) == pytest.approx(standard_error(values, groups))


def test_it_is_nan_for_one_group():
    assert np.isnan(standard_error(np.arange(5.0), np.zeros(5, np.int64)))
