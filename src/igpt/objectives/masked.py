"""Masked pre-training, "BERT" in the paper: predict hidden tokens from all the others."""

from __future__ import annotations

from igpt.model.transformer import Transformer
from igpt.objectives.masking import Masking
from igpt.objectives.objective import ConfigureOptimizers, Objective
from igpt.objectives.tasks import Masked


class MaskedObjective(Objective):
    """Needs a model that is not causal. For the options see :class:`~igpt.objectives.masking.Masking`."""

    causal = False

    def __init__(
        self,
        model: Transformer,
        configure: ConfigureOptimizers,
        ratio: float = 0.15,
        max_ratio: float | None = None,
        bert: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(model, configure, Masked(Masking(ratio, max_ratio, bert, seed)))
