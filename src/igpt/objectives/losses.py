"""The objectives as functions of a model and tokens; pure torch, so that evaluation needs nothing else."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from igpt.model.transformer import Transformer


def autoregressive_nats(model: Transformer, tokens: Tensor) -> Tensor:
    """-log p(token t | tokens before t), averaged over all T positions: (B,) nats per token for tokens (B, T).

    Equation 1 of the paper, with the identity permutation (raster order). The first pixel counts too: the start
    embedding predicts it.
    """
    logits = model(tokens).float()
    return F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="none").view_as(tokens).mean(dim=1)
