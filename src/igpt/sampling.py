"""Drawing pictures: tokens from a causal model, one after another, through a cache of keys and values."""

from __future__ import annotations

import torch
from torch import Tensor

from igpt.errors import IgptError
from igpt.model.transformer import Transformer


def filter_logits(logits: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float = 1.0) -> Tensor:
    """Logits (B, V) over temperature, with -inf for all but the `top_k` largest and the smallest set of most likely
    tokens whose probabilities reach `top_p` (nucleus sampling, Holtzman et al. 2019).
    """
    logits = logits.float() / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        smallest_kept = logits.topk(top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < smallest_kept, -torch.inf)
    if top_p < 1:
        ranked, order = logits.sort(dim=-1, descending=True)
        probabilities = ranked.softmax(dim=-1)
        reached = probabilities.cumsum(dim=-1) - probabilities >= top_p  # before this token is counted
        logits = logits.masked_fill(reached.scatter(-1, order, reached), -torch.inf)
    return logits


@torch.inference_mode()
def generate(
    model: Transformer,
    prompt: Tensor,
    generator: torch.Generator | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
) -> Tensor:
    """Continue the tokens `prompt` (B, t), 0 <= t <= T, to whole pictures (B, T).

    One full pass for the prompt, then one position a step. Temperature 0 takes the likeliest token each time.
    `generator` must live on the model's device.
    """
    if not model.config.causal:
        raise IgptError("This model was trained with the masked objective; only an autoregressive model draws.")
    if temperature < 0 or (top_k is not None and top_k < 1) or not 0 < top_p <= 1:
        raise IgptError(
            f"temperature={temperature}, top_k={top_k}, top_p={top_p}: the temperature must be at least 0, top_k at "
            "least 1 (or null) and top_p in (0, 1]."
        )
    given, total = prompt.shape[1], model.config.n_positions
    tokens = torch.cat([prompt, prompt.new_empty(len(prompt), total - given)], dim=1)
    cache = model.new_cache(len(prompt))
    new = prompt
    for position in range(given, total):
        logits = model.next_logits(new, cache)
        if temperature == 0:
            new = logits.argmax(dim=-1, keepdim=True)
        else:
            probabilities = filter_logits(logits, temperature, top_k, top_p).softmax(dim=-1)
            new = torch.multinomial(probabilities, 1, generator=generator)
        tokens[:, position : position + 1] = new
    return tokens
