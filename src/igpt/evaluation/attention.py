"""The attention of a model, from its own queries and keys."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from igpt.errors import IgptError
from igpt.model.shared import Shared
from igpt.model.transformer import Transformer


@torch.no_grad()
def attention_to_tokens(model: Transformer, tokens: Tensor, queries: Tensor) -> Tensor:
    """How much the positions `queries` (n,) of images with tokens (B, T) attend to each token, averaged over the heads:
    (L, B, n, T) for L blocks, float32.

    A position of a causal model predicts its token from those before it. Its weights sum to 1 together with that of the
    start, which is left out. In a model that is not causal, the queries are masked, as they are when it predicts them.
    """
    causal = model.config.causal
    mask = None if causal else torch.zeros_like(tokens, dtype=torch.bool).index_fill(1, queries, True)
    n_tokens = tokens.shape[1]
    at = slice(n_tokens)
    shared = Shared(at, None if model.rotary is None else model.rotary(at), None)
    future = torch.arange(n_tokens, device=tokens.device) > queries[:, None]  # (n, T)
    maps = []
    states = model.residuals(model.embed(tokens, mask), token_values=model.token_values(tokens, mask))
    for block, x in zip(model.blocks, states, strict=False):  # the last state is what the head sees
        attn: Any = block.attn
        q, k, _ = attn.project(block.attn_norm(x), shared)  # (B, h, T, d)
        scores = q[:, :, queries].float() @ k.float().mT / math.sqrt(q.shape[-1])  # (B, h, n, T)
        weights = scores.masked_fill(future & causal, -torch.inf).softmax(dim=-1).mean(dim=1)
        # Position s of a causal model is given token s - 1.
        maps.append(torch.cat([weights[..., 1:], torch.zeros_like(weights[..., :1])], dim=-1) if causal else weights)
    return torch.stack(maps)


def require_queries_and_keys(model: Transformer) -> None:
    """Raise :class:`IgptError` if the attention of a model has other parts than igpt's own."""
    for block in model.blocks:
        if not hasattr(block.attn, "project"):
            raise IgptError(
                f"Attention maps need the method `project` of igpt's Attention, which {type(block.attn).__name__} does "
                "not have; derive your class from it, or leave attention maps out."
            )
