"""Means and errors over seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def deviation(values: Sequence[float]) -> float:
    """Standard deviation of at least two values, with n - 1 in the denominator."""
    center = mean(values)
    return math.sqrt(sum((value - center) ** 2 for value in values) / (len(values) - 1))


def standard_error(values: Sequence[float]) -> float:
    """Standard error of the mean of at least two values."""
    return deviation(values) / math.sqrt(len(values))


def pooled_deviation(groups: Iterable[Sequence[float]]) -> float | None:
    """The standard deviation within groups, assumed to be the same in all; None if no group has two values."""
    several = [group for group in groups if len(group) > 1]
    if not several:
        return None
    squares = sum((len(group) - 1) * deviation(group) ** 2 for group in several)
    return math.sqrt(squares / sum(len(group) - 1 for group in several))
