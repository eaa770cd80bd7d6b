"""The size of a model and the number of steps for a given number of FLOPs, by a scaling law."""

from __future__ import annotations

from dataclasses import dataclass, replace

from igpt.errors import IgptError
from igpt.model.config import TransformerConfig
from igpt.planning.compute import Size, measure
from igpt.planning.scaling_law import ScalingLaw

HEADS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64, 96)


@dataclass(frozen=True)
class Proposal:
    """A model, how long to train it, and what the law says about it."""

    model: TransformerConfig
    size: Size
    steps: int
    batch_size: int  # images per step
    law: ScalingLaw

    @property
    def tokens(self) -> int:
        return self.steps * self.batch_size * self.model.n_positions

    @property
    def flops(self) -> int:
        return self.steps * self.batch_size * self.size.flops

    @property
    def loss(self) -> float:
        return self.law.loss(self.size.parameters, self.tokens)

    @property
    def warnings(self) -> list[str]:
        """Why the law might not hold for this proposal, one sentence each."""
        outside = self.law.outside(self.size.parameters, self.tokens, self.flops)
        found = [f"Outside of the fitted range: {'; '.join(outside)}."] if outside else []
        here = (self.model.n_positions, self.model.vocab_size)
        if here != (self.law.n_positions, self.law.vocab_size):
            found.append(
                f"The law is for {self.law.data}: {self.law.n_positions} tokens of {self.law.vocab_size} values, not "
                f"{here[0]} of {here[1]}. The loss does not compare, and the size is a guess."
            )
        return found


def propose(law: ScalingLaw, budget: float, shape: TransformerConfig, batch_size: int) -> Proposal:
    """The model of the lowest loss that `budget` FLOPs can train with batches of `batch_size` images.

    The models tried have the channels per head of `shape`, its channels per block, and its other settings. Raises
    :class:`IgptError` if the budget is not enough for one step of the smallest.
    """
    found: list[Proposal] = []
    for heads in HEADS:
        width = heads * shape.head_size
        depth = max(1, round(shape.n_layer * width / shape.n_embd))
        if any(not -depth <= block < depth for block in shape.value_embedding):
            continue  # too shallow to have these blocks
        model = replace(shape, n_embd=width, n_head=heads, n_layer=depth)
        size = measure(model)
        steps = int(budget // (batch_size * size.flops))
        if steps == 0:
            break
        found.append(Proposal(model, size, steps, batch_size, law))
        if len(found) > 2 and min(one.loss for one in found) < min(one.loss for one in found[-2:]):
            break  # the loss falls with the size, and then rises
    if not found:
        raise IgptError(f"budget={budget:g} FLOPs is less than one step of {batch_size} images; give more.")
    return min(found, key=lambda one: one.loss)
