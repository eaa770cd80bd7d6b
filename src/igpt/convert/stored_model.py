"""A model as files store it, and what is needed to check its weights."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from igpt.checkpoint import Description
from igpt.model.config import TransformerConfig
from igpt.model.transformer import Transformer
from igpt.objectives.tasks import Classification, task_from_state


@dataclass(frozen=True)
class StoredModel:
    """What `igpt.load` makes a model from, whatever the format of the files."""

    path: Path  # a checkpoint file or an exported folder
    description: Description
    weights: dict[str, Tensor]  # the state dict of an Objective: model.*, and head.* of a classifier
    results: dict[str, Any] = field(default_factory=dict)  # of its test, by their names in summary.json, if known
    chosen: str = "trained"  # which weights of a checkpoint these are: trained or ema
    step: int | None = None  # of training, if known

    @property
    def class_names(self) -> list[str]:
        """The classes of a classifier; empty for another model, whatever classes its data have."""
        is_classifier = isinstance(task_from_state(self.description.task), Classification)
        return self.description.classes if is_classifier else []


def rounded(stored: StoredModel, dtype: torch.dtype) -> StoredModel:
    """The model with its weights in another floating-point type; integers stay. Results are left out, since they may
    differ.
    """
    weights = {name: w.to(dtype) if w.is_floating_point() else w for name, w in stored.weights.items()}
    return replace(stored, weights=weights, results={})


def empty_weights(config: TransformerConfig) -> dict[str, Tensor]:
    """The names and shapes of a model's weights, without values."""
    with torch.device("meta"):
        return Transformer(config).state_dict()


def weights_below(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The part of a state dict that belongs to one module."""
    return {name.removeprefix(prefix): weight for name, weight in state.items() if name.startswith(prefix)}
