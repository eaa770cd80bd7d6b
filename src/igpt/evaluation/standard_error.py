"""Standard errors of means over images that are not independent."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray


def standard_error(values: ArrayLike, groups: NDArray[np.int64]) -> NDArray[np.float64]:
    """Standard error (...,) of the mean of values (..., N), where values in different `groups` (N,) are independent.

    Values of one group may depend on each other. The result is nan for a single group.

    The cluster-robust formula for G groups, with r the values minus their mean (Liang and Zeger 1986), is
    sqrt(G / (G - 1) * sum over groups of (sum of r)^2) / N. With one value per group it is the usual standard error.
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
