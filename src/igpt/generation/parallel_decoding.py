"""Parallel decoding with a masked model: a few passes, each of which predicts all unknown tokens and keeps some."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from igpt.errors import IgptError
from igpt.generation.choose import choose_token
from igpt.generation.noise import Noise
from igpt.generation.sampling_config import SamplingConfig
from igpt.model.transformer import Transformer

PASSES = 16
# With MaskGIT's own value of 4.5, the first passes keep the most likely color, which is the background, until most of
# the image is background. benchmarks/masked_sampling.py measures both values.
CHOICE_TEMPERATURE = 20.0


@torch.inference_mode()
def decode_parallel(
    model: Transformer,
    tokens: Tensor,
    unknown: Tensor,
    noise: Noise | None = None,
    sampling: SamplingConfig | None = None,
    on_pass: Callable[[], object] | None = None,
) -> Tensor:
    """Complete tokens (N, T) where `unknown` (N, T) is True, to (B, T): as many copies of each image as `noise` has.

    Iterative parallel decoding, "MaskGIT" (Chang et al. 2022). Each pass chooses all unknown tokens and keeps the most
    confident ones: those with the largest log p plus Gumbel noise times `choice_temperature`, which falls linearly to 0
    in the last pass. This works best with a model that was trained with mask ratios up to 1 (objective.max_ratio=1),
    since the first passes see almost nothing. `noise` None is that of seed 0 for one copy. `on_pass` is called
    after each pass, to show progress.

    Raises :class:`IgptError` for an autoregressive model, and for settings that do not apply to a masked one.
    """
    if model.config.causal:
        raise IgptError("This model is autoregressive; only one trained with the masked objective decodes in parallel.")
    sampling, noise = sampling or SamplingConfig(), noise or Noise(0, range(len(tokens)), range(1))
    sampling.check_applicable(causal=False)
    passes, choice_temperature = passes_of(sampling), sampling.choice_temperature
    if choice_temperature is None:
        choice_temperature = CHOICE_TEMPERATURE
    copies, total, device = len(noise.copies), tokens.shape[1], tokens.device
    tokens, unknown = tokens.repeat_interleave(copies, dim=0), unknown.repeat_interleave(copies, dim=0)  # (B, T)
    counts = unknown.sum(dim=1)  # (B,)
    for done in range(1, min(passes, int(counts.max())) + 1):
        logits = model(tokens, unknown)[unknown].float()  # (M, V) for the M unknown tokens
        chosen = choose_token(logits, noise.integers(total, done).to(device)[unknown], sampling)
        log_p = logits.log_softmax(dim=-1).gather(1, chosen[:, None])[:, 0]  # (M,)
        scale = choice_temperature * (1 - done / passes)
        confidence = log_p + scale * noise.gumbel(total, done).to(device)[unknown]
        tokens = tokens.masked_scatter(unknown, chosen)
        unknown = least_confident(confidence, unknown, still_unknown(counts, done, passes))
        if on_pass is not None:
            on_pass()
    return tokens


def passes_of(sampling: SamplingConfig) -> int:
    """Forward passes per image."""
    return PASSES if sampling.passes is None else sampling.passes


def still_unknown(unknown: Tensor, done: int, passes: int) -> Tensor:
    """How many of each image's `unknown` (B,) tokens are left after `done` of `passes` passes.

    The cosine schedule, except that every pass keeps at least one token.
    """
    cosine = (unknown * math.cos(math.pi / 2 * done / passes)).floor().long()
    return torch.minimum(cosine, unknown - done).clamp(min=0)


def least_confident(confidence: Tensor, unknown: Tensor, n: Tensor) -> Tensor:
    """The n (B,) positions of each row with the lowest `confidence` (M,), of those where `unknown` (B, T) is True."""
    everywhere = torch.full(unknown.shape, torch.inf, device=unknown.device).masked_scatter(unknown, confidence)
    rank = everywhere.argsort(dim=1).argsort(dim=1)
    return rank < n[:, None]
