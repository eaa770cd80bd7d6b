"""The two pre-training tasks: what the model gets to see of a batch, and what it is asked about it. Pure torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from igpt.batch import TokenBatch
from igpt.errors import IgptError
from igpt.model.transformer import Transformer
from igpt.objectives.losses import autoregressive_nats, masked_nats
from igpt.objectives.masking import Masking


class Outcome(NamedTuple):
    """One pass of the model over a batch."""

    nats: Tensor  # (B,) mean nats per predicted token of each image
    hidden: Tensor  # (B, T, C) the final norm's output


class Task(Protocol):
    """A way to ask a model about tokens."""

    causal: ClassVar[bool]

    def run(self, model: Transformer, batch: TokenBatch, draw: int | None = None) -> Outcome:
        """One pass: in training with `draw` None, in evaluation with the number of one of the fixed draws."""

    def features(self, model: Transformer, batch: TokenBatch, draw: int | None) -> Tensor:
        """Pooled features of every layer (B, L + 1, C); a masked model hides nothing if `draw` is None."""

    def state(self) -> dict[str, Any]:
        """Plain values from which :func:`task_from_state` makes an equal task."""


@dataclass(frozen=True)
class Autoregressive:
    """Every token from the tokens before it."""

    causal: ClassVar[bool] = True

    def run(self, model: Transformer, batch: TokenBatch, draw: int | None = None) -> Outcome:
        hidden = model.hidden(batch.tokens)
        return Outcome(autoregressive_nats(model.head(hidden), batch.tokens), hidden)

    def features(self, model: Transformer, batch: TokenBatch, draw: int | None) -> Tensor:
        return model.features(batch.tokens)

    def state(self) -> dict[str, Any]:
        return {"name": "ar"}


@dataclass(frozen=True)
class Masked:
    """The masked tokens from all the others."""

    masking: Masking = field(default_factory=Masking)
    causal: ClassVar[bool] = False

    def run(self, model: Transformer, batch: TokenBatch, draw: int | None = None) -> Outcome:
        seen = self.masking.apply(batch if draw is None else self.masking.fixed(batch, draw), model.config.vocab_size)
        hidden = model.hidden(seen.tokens, seen.hidden)
        return Outcome(masked_nats(model.head(hidden), batch.tokens, seen.predicted), hidden)

    def features(self, model: Transformer, batch: TokenBatch, draw: int | None) -> Tensor:
        if draw is None:
            return model.features(batch.tokens)
        seen = self.masking.apply(self.masking.fixed(batch, draw), model.config.vocab_size)
        return model.features(seen.tokens, seen.hidden)

    def state(self) -> dict[str, Any]:
        return {"name": "mlm", **asdict(self.masking)}


def task_from_state(state: dict[str, Any]) -> Task:
    """The task that a checkpoint names."""
    values = {name: value for name, value in state.items() if name != "name"}
    if state["name"] == "ar":
        return Autoregressive()
    if state["name"] == "mlm":
        return Masked(Masking(**values))
    raise IgptError(f"The checkpoint's task is '{state['name']}', which this version does not know.")


def predict_classes(model: Transformer, head: nn.Module, task: Task, batch: TokenBatch, votes: int) -> Tensor:
    """Class of each image, (B,). A masked model looks at each image under `votes` different masks, and the class that
    comes up most often wins, the lower one of two that come up as often (appendix of the paper: 5 masks).
    """
    draws = range(1 if task.causal else votes)
    logits = [head(task.run(model, batch, draw).hidden.mean(dim=1)) for draw in draws]
    counts = sum(nn.functional.one_hot(each.argmax(dim=-1), each.shape[-1]) for each in logits)
    assert isinstance(counts, torch.Tensor)
    return counts.argmax(dim=-1)
