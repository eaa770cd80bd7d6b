"""Autoregressive pre-training: predict every token from the tokens before it."""

from __future__ import annotations

from igpt.model.transformer import Transformer
from igpt.objectives.objective import ConfigureOptimizers, Objective
from igpt.objectives.tasks import Autoregressive


class AutoregressiveObjective(Objective):
    """Needs a causal model."""

    causal = True

    def __init__(self, model: Transformer, configure: ConfigureOptimizers) -> None:
        super().__init__(model, configure, Autoregressive())
