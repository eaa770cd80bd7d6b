"""What a model is trained for: what it gets to see of a batch, its loss, and what validation measures. Pure torch.

A task holds plain values alone. The module that a task trains beside the model, if it needs one, belongs to the
:class:`~igpt.objectives.objective.Objective`, which hands it to the task.
"""

from __future__ import annotations

import dataclasses
import functools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from igpt.batch import TokenBatch
from igpt.errors import IgptError
from igpt.model.config import TransformerConfig
from igpt.model.transformer import Transformer
from igpt.objectives.losses import autoregressive_nats, masked_nats, token_nats
from igpt.objectives.masking import Masking
from igpt.objectives.random_orders import GivenPositions, RandomOrders, shifted
from igpt.objectives.resolution_stages import ResolutionStages, low_resolution
from igpt.objectives.transformations import TransformationEmbedding, Transformations
from igpt.stored_names import class_of, name_of

POSITIONS = "model.position_embedding.weight"  # in the state dict of an Objective


class Outcome(NamedTuple):
    """One pass of the model over a batch."""

    nats: Tensor  # (B,) mean nats per predicted token of each image
    hidden: Tensor  # (B, T, C) the final norm's output


class Losses(NamedTuple):
    """Of one micro-batch in training."""

    loss: Tensor  # () what is minimized
    logged: dict[str, Tensor]  # each (), means over the micro-batch


@dataclass(frozen=True)
class Task(ABC):
    """A pre-training or classification task.

    A subclass is a frozen dataclass of plain values, and has `causal` and :meth:`run`. Everything else follows from
    these, and may be overridden.
    """

    needs_classes: ClassVar[bool] = False
    measures: ClassVar[tuple[str, ...]] = ("nats_per_token",)  # the names of what `measure` gives

    @property
    @abstractmethod
    def causal(self) -> bool:
        """Whether the model is causal; a class attribute will do."""

    @abstractmethod
    def run(self, model: Transformer, batch: TokenBatch, mask_index: int | None = None) -> Outcome:
        """One pass: in training with `mask_index` None, in evaluation with the number of one of the fixed masks."""

    def features(
        self, model: Transformer, batch: TokenBatch, mask_index: int | None = None, regions: Tensor | None = None
    ) -> Tensor:
        """Pooled features of every layer (B, L + 1, C); the model sees the whole image if `mask_index` is None.

        `regions` (R, T) are those of :meth:`igpt.model.transformer.Transformer.features`.
        """
        return model.features(batch.tokens, regions=regions)

    def losses(self, model: Transformer, head: nn.Module | None, batch: TokenBatch) -> Losses:
        """The loss of a training step, and what to log; nats per token are logged in bits as well."""
        nats = self.run(model, batch).nats.mean()
        return Losses(nats, {"nats_per_token": nats})

    def measure(self, model: Transformer, head: nn.Module | None, batch: TokenBatch) -> dict[str, Tensor]:
        """What validation measures of each image, (n,) for each name in `measures`, with n at most B."""
        return {"nats_per_token": self.run(model, batch, mask_index=0).nats}

    def token_nats(self, model: Transformer, batch: TokenBatch, mask_index: int) -> Tensor:
        """-log p (B, T) of each token that :meth:`run` predicts, in nats; NaN at the other tokens.

        Only needed to show which parts of an image are hard.
        """
        raise IgptError(f"{type(self).__name__} does not have the method token_nats, so it has no loss by position.")

    def losses_at(self, step: int, model: Transformer, head: nn.Module | None, batch: TokenBatch) -> Losses:
        """:meth:`losses` at a training step, counted from 0, of a task that changes in the course of training."""
        return self.losses(model, head, batch)

    def make_head(self, shape: TransformerConfig, n_classes: int) -> nn.Module | None:
        """What is trained beside a model of this shape."""
        return None

    def transformed(self, images: Tensor, epochs: Tensor, indices: Tensor, step: int) -> Tensor:
        """Training images (B, R, R, 3) uint8, after augmentation, as the task wants them at a step, counted from 0.
        `epochs` and `indices` are (B,) int64.
        """
        return images

    def trained(self, weights: dict[str, Tensor]) -> tuple[Task, dict[str, Tensor]]:
        """The task and the weights of a trained model, from the state dict of its Objective: what only training needs
        is merged into the model, or left out.
        """
        return self, weights

    def starting_from(self, other: Task) -> Task:
        """The same task, for a model that was trained with the task `other`."""
        return self

    def state(self) -> dict[str, Any]:
        """Plain values from which :meth:`from_state` makes an equal task."""
        return dataclasses.asdict(self)

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Task:
        return cls(**state)


@dataclass(frozen=True)
class Pretraining(Task):
    """A task whose training images may be transformed in the ways named in `transforms`, of which the model is told,
    and have lower resolutions in the first steps, as in `stages`
    (:class:`~igpt.objectives.resolution_stages.ResolutionStages`).

    Everything but training, fine-tuning included, is on images as they are. `seed` is that of all random choices.
    """

    transforms: Sequence[str] = field(default=(), kw_only=True)
    stages: Sequence[Sequence[int]] = field(default=(), kw_only=True)
    seed: int = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "transforms", self.transformations.kinds)  # refuses unknown ones
        object.__setattr__(self, "stages", ResolutionStages(self.stages).stages)

    @property
    def transformations(self) -> Transformations:
        return Transformations(self.transforms, self.seed)

    @abstractmethod
    def run(
        self,
        model: Transformer,
        batch: TokenBatch,
        mask_index: int | None = None,
        added: Tensor | None = None,
        at: Tensor | None = None,
    ) -> Outcome:
        """As in the base class, with `added` and `at` as :meth:`Transformer.hidden` takes them."""

    def losses(self, model: Transformer, head: nn.Module | None, batch: TokenBatch) -> Losses:
        added, at = low_resolution(model, batch.tokens.shape[1])
        nats = self.run(model, batch, added=sum_of(added, self.told(head, batch)), at=at).nats.mean()
        return Losses(nats, {"nats_per_token": nats})

    def told(self, head: nn.Module | None, batch: TokenBatch) -> Tensor | None:
        """What tells the model how training images were transformed, (B, 1, C); None if they were not."""
        if not self.transforms:
            return None
        assert isinstance(head, nn.ModuleDict)
        told: Tensor = head["transforms"](self.transformations.choices(batch.epochs, batch.indices))
        return told

    def make_head(self, shape: TransformerConfig, n_classes: int) -> nn.Module | None:
        embeddings = self.embeddings(shape)
        return nn.ModuleDict(embeddings) if embeddings else None

    def embeddings(self, shape: TransformerConfig) -> dict[str, nn.Module]:
        """What only training adds to the embeddings of the tokens."""
        if self.stages and shape.positions not in ("learned", "none"):
            raise IgptError(
                f"objective.stages needs model.positions=learned or none, not {shape.positions}; leave out one of them."
            )
        return {"transforms": TransformationEmbedding(self.transforms, shape.n_embd)} if self.transforms else {}

    def transformed(self, images: Tensor, epochs: Tensor, indices: Tensor, step: int) -> Tensor:
        return ResolutionStages(self.stages)(self.transformations(images, epochs, indices), step)

    def trained(self, weights: dict[str, Tensor]) -> tuple[Task, dict[str, Tensor]]:
        kept = {name: weight for name, weight in weights.items() if not name.startswith("head.transforms.")}
        return dataclasses.replace(self, transforms=(), stages=()), kept


def sum_of(*parts: Tensor | None) -> Tensor | None:
    """The sum of those that are not None; None if all are."""
    given = [part for part in parts if part is not None]
    return functools.reduce(torch.add, given) if given else None


@dataclass(frozen=True)
class Autoregressive(Pretraining):
    """Predict every token from the tokens before it.

    With `random_order_steps` [start, stop], training images are predicted in random orders until step `start`, then in
    the order of the sequence more and more often, and always from step `stop` on
    (:class:`~igpt.objectives.random_orders.RandomOrders`).
    """

    causal = True

    random_order_steps: Sequence[int] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.random_order_steps is not None:
            start, stop = self.random_order_steps
            if not 0 <= start <= stop:
                raise IgptError(
                    f"objective.random_order_steps is [{start}, {stop}]; it must be two steps, the first one first."
                )
            object.__setattr__(self, "random_order_steps", (start, stop))
            if self.stages:
                raise IgptError("objective.stages and objective.random_order_steps exclude each other; leave out one.")

    @property
    def random_orders(self) -> RandomOrders | None:
        if self.random_order_steps is None:
            return None
        start, stop = self.random_order_steps
        return RandomOrders(start, stop, self.seed)

    def run(
        self,
        model: Transformer,
        batch: TokenBatch,
        mask_index: int | None = None,
        added: Tensor | None = None,
        at: Tensor | None = None,
    ) -> Outcome:
        hidden = model.hidden(batch.tokens, added=added, at=at)
        return Outcome(autoregressive_nats(model.head(hidden), batch.tokens), hidden)

    def token_nats(self, model: Transformer, batch: TokenBatch, mask_index: int) -> Tensor:
        return token_nats(model(batch.tokens), batch.tokens)

    def losses_at(self, step: int, model: Transformer, head: nn.Module | None, batch: TokenBatch) -> Losses:
        if self.random_orders is None:
            return self.losses(model, head, batch)
        order = self.random_orders.at(step, batch)  # (B, T)
        tokens, added = batch.tokens.gather(1, order), sum_of(self.given(head, order), self.told(head, batch))
        hidden = model.hidden(tokens, added=added, at=order)
        nats = autoregressive_nats(model.head(hidden), tokens).mean()
        return Losses(nats, {"nats_per_token": nats})

    def measure(self, model: Transformer, head: nn.Module | None, batch: TokenBatch) -> dict[str, Tensor]:
        if self.random_orders is None:
            return super().measure(model, head, batch)
        given = self.given(head, torch.arange(batch.tokens.shape[1], device=batch.tokens.device)[None])
        return {"nats_per_token": self.run(model, batch, mask_index=0, added=given).nats}

    def given(self, head: nn.Module | None, order: Tensor) -> Tensor:
        """What tells the model the positions of the given tokens, (B, T, C), for the predicted positions (B, T)."""
        assert isinstance(head, nn.ModuleDict)
        given: Tensor = head["given_positions"](order)
        return given

    def embeddings(self, shape: TransformerConfig) -> dict[str, nn.Module]:
        if self.random_orders is None:
            return super().embeddings(shape)
        if shape.positions != "learned":
            raise IgptError(
                f"objective.random_order_steps needs model.positions=learned, not {shape.positions}, since a position "
                "must know which token it predicts; leave out one of the two."
            )
        return {**super().embeddings(shape), "given_positions": GivenPositions(shape.n_positions, shape.n_embd)}

    def trained(self, weights: dict[str, Tensor]) -> tuple[Task, dict[str, Tensor]]:
        task, kept = super().trained(weights)
        if self.random_orders is None:
            return task, kept
        kept[POSITIONS] = kept[POSITIONS] + shifted(kept.pop("head.given_positions.weight"))
        return dataclasses.replace(task, random_order_steps=None), kept  # type: ignore[call-arg]


@dataclass(frozen=True)
class Masked(Pretraining):
    """Predict the masked tokens from all the others, "BERT" in the paper.

    The options are those of :class:`~igpt.objectives.masking.Masking`.
    """

    causal = False

    ratio: float = 0.15
    max_ratio: float | None = None
    bert: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.masking  # which refuses impossible ratios

    @functools.cached_property
    def masking(self) -> Masking:
        return Masking(self.ratio, self.max_ratio, self.bert, self.seed)

    def run(
        self,
        model: Transformer,
        batch: TokenBatch,
        mask_index: int | None = None,
        added: Tensor | None = None,
        at: Tensor | None = None,
    ) -> Outcome:
        if mask_index is not None:
            batch = self.masking.fixed(batch, mask_index)
        seen = self.masking.apply(batch, model.config.vocab_size)
        hidden = model.hidden(seen.tokens, seen.masked, added, at)
        return Outcome(masked_nats(model.head(hidden), batch.tokens, seen.predicted), hidden)

    def token_nats(self, model: Transformer, batch: TokenBatch, mask_index: int) -> Tensor:
        seen = self.masking.apply(self.masking.fixed(batch, mask_index), model.config.vocab_size)
        nats = token_nats(model(seen.tokens, seen.masked), batch.tokens)
        return nats.masked_fill(~seen.predicted, torch.nan)

    def features(
        self, model: Transformer, batch: TokenBatch, mask_index: int | None = None, regions: Tensor | None = None
    ) -> Tensor:
        if mask_index is None:
            return model.features(batch.tokens, regions=regions)
        seen = self.masking.apply(self.masking.fixed(batch, mask_index), model.config.vocab_size)
        return model.features(seen.tokens, seen.masked, regions)


@dataclass(frozen=True)
class Classification(Task):
    """Fine-tuning: a linear classifier on the mean of the final features, trained together with a pre-training task.

    loss = generative_weight * L_pretraining + classification_weight * L_classes (section 3.3; the paper: 1 and 1).

    The pre-training `task` may be given by its short name; without any it is that of the model to start from. The head
    starts at zero. A masked model is evaluated by the majority vote over `votes` masks.
    """

    needs_classes = True
    measures = ("nats_per_token", "accuracy")

    task: Task | str | None = None
    generative_weight: float = 1.0
    classification_weight: float = 1.0
    votes: int = 5

    def __post_init__(self) -> None:
        if isinstance(self.task, str):
            object.__setattr__(self, "task", task_from_state({"name": self.task}))

    @property
    def pretraining(self) -> Task:
        """The pre-training task."""
        if not isinstance(self.task, Task):
            raise IgptError("objective.task is null; without init_from it must be ar or mlm.")
        return self.task

    @property
    def causal(self) -> bool:
        """That of the pre-training task; True as long as that is not known."""
        return self.task is None or self.pretraining.causal

    def starting_from(self, other: Task) -> Task:
        return dataclasses.replace(self, task=other)

    def run(self, model: Transformer, batch: TokenBatch, mask_index: int | None = None) -> Outcome:
        return self.pretraining.run(model, batch, mask_index)

    def features(
        self, model: Transformer, batch: TokenBatch, mask_index: int | None = None, regions: Tensor | None = None
    ) -> Tensor:
        return self.pretraining.features(model, batch, mask_index, regions)

    def token_nats(self, model: Transformer, batch: TokenBatch, mask_index: int) -> Tensor:
        return self.pretraining.token_nats(model, batch, mask_index)

    def make_head(self, shape: TransformerConfig, n_classes: int) -> nn.Linear:
        head = nn.Linear(shape.n_embd, n_classes, bias=False)  # as in the release, and in transformers
        nn.init.zeros_(head.weight)
        return head

    def losses(self, model: Transformer, head: nn.Module | None, batch: TokenBatch) -> Losses:
        assert head is not None
        nats, hidden = self.run(model, batch)
        class_logits = head(hidden.mean(dim=1))  # (B, K)
        class_loss = F.cross_entropy(class_logits.float(), batch.labels)
        accuracy = (class_logits.argmax(-1) == batch.labels).float().mean()
        loss = self.generative_weight * nats.mean() + self.classification_weight * class_loss
        return Losses(loss, {"nats_per_token": nats.mean(), "class_loss": class_loss, "accuracy": accuracy})

    def measure(self, model: Transformer, head: nn.Module | None, batch: TokenBatch) -> dict[str, Tensor]:
        assert head is not None
        predicted = predict_classes(model, head, self.pretraining, batch, self.votes)
        right = (predicted.classes == batch.labels)[batch.labels >= 0]
        return {"nats_per_token": predicted.nats, "accuracy": right.float()}

    def state(self) -> dict[str, Any]:
        weights = {"generative_weight": self.generative_weight, "classification_weight": self.classification_weight}
        return {"task": task_state(self.pretraining), "votes": self.votes, **weights}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Task:
        return cls(**{**state, "task": task_from_state(state["task"])})


TASKS: dict[str, type[Task]] = {"ar": Autoregressive, "mlm": Masked, "classify": Classification}


def task_state(task: Task) -> dict[str, Any]:
    """What a checkpoint says of a task: its name, and its state."""
    return {"name": name_of(type(task), TASKS), **task.state()}


def task_from_state(state: dict[str, Any]) -> Task:
    """The task that a checkpoint describes."""
    values = {name: value for name, value in state.items() if name != "name"}
    return class_of(state["name"], TASKS, Task).from_state(values)  # type: ignore[type-abstract]


class Predicted(NamedTuple):
    """What a classifier says of a batch."""

    classes: Tensor  # (B,)
    nats: Tensor  # (B,) as in Outcome, of the first pass


def predict_classes(model: Transformer, head: nn.Module, task: Task, batch: TokenBatch, votes: int) -> Predicted:
    """A masked model sees each image under `votes` different masks, and the class that most of them give is chosen, the
    lower one of two with equal votes (appendix of the paper: 5 masks).
    """
    nats, chosen = [], []
    for mask_index in range(1 if task.causal else votes):
        outcome = task.run(model, batch, mask_index)
        logits = head(outcome.hidden.mean(dim=1))  # (B, K)
        nats.append(outcome.nats)
        chosen.append(F.one_hot(logits.argmax(dim=-1), logits.shape[-1]))
    return Predicted(torch.stack(chosen).sum(dim=0).argmax(dim=-1), nats[0])
