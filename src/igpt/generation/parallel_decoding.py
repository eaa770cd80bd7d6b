"""Drawing pictures with a masked model: a few passes that predict all unknown tokens and keep the most confident."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from igpt.errors import IgptError
from igpt.generation.autoregressive import check_choice, choose, exponential_noise
from igpt.model.transformer import Transformer

# MaskGIT's own 4.5 settles the likeliest color first, which is the background, until little else is left of a picture;
# benchmarks/masked_sampling.py measures what this one gives.
CHOICE_TEMPERATURE = 20.0
PASSES = 16


def still_unknown(unknown: Tensor, done: int, passes: int) -> Tensor:
    """How many of each image's `unknown` (B,) tokens are left after `done` of `passes` passes: the cosine schedule,
    except that every pass settles one token at least.
    """
    cosine = (unknown * math.cos(math.pi / 2 * done / passes)).floor().long()
    return torch.minimum(cosine, unknown - done).clamp(min=0)


def gumbel(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard Gumbel noise."""
    return -torch.empty_like(like).exponential_(1, generator=generator).log()


@torch.inference_mode()
def decode_parallel(
    model: Transformer,
    tokens: Tensor,
    unknown: Tensor,
    generator: torch.Generator | None = None,
    passes: int = PASSES,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    choice_temperature: float = CHOICE_TEMPERATURE,
    on_pass: Callable[[], object] | None = None,
) -> Tensor:
    """Pictures (B, T) with the `tokens` (B, T) where they are known, and drawn ones where `unknown` (B, T) is True.

    Iterative parallel decoding, "MaskGIT" (Chang et al. 2022). Each pass draws all unknown tokens and keeps the most
    confident: those with the largest log p plus Gumbel noise times `choice_temperature`, which falls linearly to 0 at
    the last pass. Works best with a model that was trained with mask ratios up to 1 (objective.max_ratio=1), since
    nearly everything is masked in the first passes. `generator` must live on the model's device. `on_pass` is called
    after each pass, to show progress.
    """
    check(model, passes, choice_temperature)
    check_choice(temperature, top_k, top_p)
    counts = unknown.sum(dim=1)
    for done in range(1, min(passes, int(counts.max())) + 1):
        logits = model(tokens, unknown)[unknown].float()  # (M, V) for the M unknown tokens
        race = exponential_noise(logits.shape, logits.device, generator, temperature)
        drawn = choose(logits, race, temperature, top_k, top_p)
        log_p = logits.log_softmax(dim=-1).gather(1, drawn[:, None])[:, 0]
        noise = choice_temperature * (1 - done / passes) * gumbel(log_p, generator)
        tokens = tokens.masked_scatter(unknown, drawn)
        unknown = least_confident(log_p + noise, unknown, still_unknown(counts, done, passes))
        if on_pass is not None:
            on_pass()
    return tokens


def least_confident(confidence: Tensor, unknown: Tensor, n: Tensor) -> Tensor:
    """The n (B,) positions of each row with the lowest `confidence` (M,), of those where `unknown` (B, T) is True."""
    everywhere = torch.full(unknown.shape, torch.inf, device=unknown.device).masked_scatter(unknown, confidence)
    rank = everywhere.argsort(dim=1).argsort(dim=1)
    return rank < n[:, None]


def check(model: Transformer, passes: int, choice_temperature: float) -> None:
    """Refuse a causal model and impossible settings."""
    if model.config.causal:
        raise IgptError("This model is autoregressive; only one trained with the masked objective decodes in parallel.")
    if passes < 1 or choice_temperature < 0:
        raise IgptError(
            f"passes={passes}, choice_temperature={choice_temperature}: there must be at least 1 pass, and the "
            "temperature of the choice must be at least 0."
        )
