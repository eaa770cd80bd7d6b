"""From logits to tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from igpt.generation.noise import BITS
from igpt.generation.sampling_config import SamplingConfig


def filter_logits(logits: Tensor, sampling: SamplingConfig) -> Tensor:
    """Logits (B, V) divided by the temperature, which must be above 0; -inf where top_k or top_p excludes a token."""
    logits = logits.float() / sampling.temperature
    if sampling.top_k is not None and sampling.top_k < logits.shape[-1]:
        smallest_kept = logits.topk(sampling.top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < smallest_kept, -torch.inf)
    if sampling.top_p < 1:
        ranked, order = logits.sort(dim=-1, descending=True)
        probabilities = ranked.softmax(dim=-1)
        excluded = probabilities.cumsum(dim=-1) - probabilities >= sampling.top_p  # reached before this token is added
        logits = logits.masked_fill(excluded.scatter(-1, order, excluded), -torch.inf)
    return logits


def choose_token(logits: Tensor, noise: Tensor, sampling: SamplingConfig) -> Tensor:
    """One token (B,) for each row of logits (B, V): the inverse of the cumulative distribution at `noise` (B,), uniform
    integers in [0, 2^BITS). At temperature 0 the most likely token.

    Probabilities are summed as integers. Their sums are exact in any order of addition, which differs between devices,
    and so an excluded token, whose probability is 0, is never chosen.
    """
    if sampling.temperature == 0:
        return logits.argmax(dim=-1)
    probabilities = filter_logits(logits, sampling).softmax(dim=-1)
    cumulative = probabilities.mul_(2.0**BITS).long().cumsum_(dim=-1)  # (B, V)
    threshold = (noise[:, None] * cumulative[:, -1:]) >> BITS  # (B, 1), below the total
    token = torch.searchsorted(cumulative, threshold, right=True)[:, 0]  # the first one whose sum exceeds the threshold
    return token.clamp_(max=logits.shape[-1] - 1)  # there is none if logits are NaN
