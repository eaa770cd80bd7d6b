"""A model as files store it, and what is needed to check its weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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

    @property
    def class_names(self) -> list[str]:
        """The classes of a classifier; empty for another model, whatever classes its data have."""
        is_classifier = isinstance(task_from_state(self.description.task), Classification)
        return self.description.classes if is_classifier else []


def empty_weights(config: TransformerConfig) -> dict[str, Tensor]:
    """The names and shapes of a model's weights, without values."""
    with torch.device("meta"):
        return Transformer(config).state_dict()


def weights_below(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The part of a state dict that belongs to one module."""
    return {name.removeprefix(prefix): weight for name, weight in state.items() if name.startswith(prefix)}
