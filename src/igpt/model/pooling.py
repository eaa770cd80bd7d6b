"""Averages over a sequence of hidden states."""

from __future__ import annotations

from torch import Tensor


def averages(x: Tensor, weights: Tensor | None = None) -> Tensor:
    """The mean (B, C) of a sequence x (B, T, C); with `weights` (R, T), R weighted means in one vector (B, R * C)."""
    return x.mean(dim=1) if weights is None else (weights.to(x.dtype) @ x).flatten(1)
