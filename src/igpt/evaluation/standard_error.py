"""Standard errors of means over images, of which some belong together."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray


def standard_error(values: ArrayLike, groups: NDArray[np.int64]) -> NDArray[np.float64]:
    """Standard error (...,) of the mean of values (..., N) whose groups (N,) are independent of each other, and whose
    values inside a group need not be. Nan for a single group.

    The cluster-robust formula with G groups, r the values minus their mean (Liang and Zeger 1986):
    sqrt(G / (G - 1) * sum over groups of (sum of r)^2) / N. If each group has one value, it is the usual one.
    """
    values = np.asarray(values, np.float64)
    residuals = values - values.mean(axis=-1, keepdims=True)
    order = np.argsort(groups, kind="stable")
    _, starts = np.unique(groups[order], return_index=True)
    if len(starts) < 2:
        return np.full(values.shape[:-1], math.nan)
    sums = np.add.reduceat(residuals[..., order], starts, axis=-1)
    correction = len(starts) / (len(starts) - 1)
    return np.asarray(np.sqrt(correction * (sums**2).sum(axis=-1)) / values.shape[-1])
