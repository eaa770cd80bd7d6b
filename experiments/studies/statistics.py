"""Means and errors over seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

# 97.5% quantiles of Student's t for 1, 2, ... degrees of freedom
STUDENT = (
    12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13,
    2.12, 2.11, 2.10, 2.09, 2.09, 2.08, 2.07, 2.07, 2.06, 2.06, 2.06, 2.05, 2.05, 2.05, 2.04,
)  # fmt: skip


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def deviation(values: Sequence[float]) -> float:
    """Standard deviation of at least two values, with n - 1 in the denominator."""
    center = mean(values)
    return math.sqrt(sum((value - center) ** 2 for value in values) / (len(values) - 1))


def standard_error(values: Sequence[float]) -> float:
    """Standard error of the mean of at least two values."""
    return deviation(values) / math.sqrt(len(values))


def pooled_deviation(groups: Iterable[Sequence[float]]) -> tuple[float, int] | None:
    """The standard deviation within groups, assumed to be the same in all, and its degrees of freedom; None if no group
    has two values.
    """
    several = [group for group in groups if len(group) > 1]
    if not several:
        return None
    squares = sum((len(group) - 1) * deviation(group) ** 2 for group in several)
    freedom = sum(len(group) - 1 for group in several)
    return math.sqrt(squares / freedom), freedom


def t_quantile(freedom: int) -> float:
    """How many standard errors a mean lies from its expectation at most, in 95% of cases: Student's t with at least one
    degree of freedom.
    """
    if freedom < 1:
        raise ValueError(f"{freedom} degrees of freedom")
    return STUDENT[min(freedom, len(STUDENT)) - 1]
