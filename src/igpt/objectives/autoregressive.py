"""Autoregressive pre-training: predict every token from the tokens before it."""

from __future__ import annotations

from torch import Tensor

from igpt.batch import TokenBatch
from igpt.objectives.base import PretrainingObjective
from igpt.objectives.losses import autoregressive_nats


class AutoregressiveObjective(PretrainingObjective):
    """Needs a causal model."""

    causal = True

    def nats(self, batch: TokenBatch) -> Tensor:
        return autoregressive_nats(self.model, batch.tokens)
