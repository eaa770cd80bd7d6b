"""The losses of the pre-training tasks, as functions of logits and tokens."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def token_nats(logits: Tensor, tokens: Tensor) -> Tensor:
    """-log p of each token: (B, T) for logits (B, T, V) and tokens (B, T)."""
    return F.cross_entropy(logits.float().flatten(0, 1), tokens.flatten(), reduction="none").view_as(tokens)


def autoregressive_nats(logits: Tensor, tokens: Tensor) -> Tensor:
    """-log p(token t | tokens before t), averaged over all T positions: (B,) nats per token.

    Equation 1 of the paper. The first token counts as well: it is predicted from the start embedding.
    """
    return token_nats(logits, tokens).mean(dim=1)


def masked_nats(logits: Tensor, tokens: Tensor, predicted: Tensor) -> Tensor:
    """-log p(token | tokens that are not masked), averaged over the masked positions of each image: (B,) nats.

    Equation 2 of the paper, "BERT". `predicted` (B, T) is True where a token was masked, at least once per image.
    """
    return (token_nats(logits, tokens) * predicted).sum(dim=1) / predicted.sum(dim=1)
