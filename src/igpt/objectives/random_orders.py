"""Random orders of prediction, annealed to the run's own order (RAR: Yu et al. 2024, "Randomized Autoregressive Visual
Generation").

In a random order, a position must know two things: which token it predicts, and which token it is given. The model's
learned positions say the first, as in every model. A second table, the :class:`GivenPositions`, says the second. When
the orders are annealed, both are functions of the position alone, so their sum is one table: an ordinary model.
(The paper adds its new embedding for the first of the two, since its positions are those of the given tokens.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from igpt.batch import TokenBatch
from igpt.counter_rng import of_samples

CHOICE, ORDER = 51, 52  # streams of random numbers


@dataclass(frozen=True)
class RandomOrders:
    """Until step `start`, each image has a random order in each epoch; then fewer and fewer images do, none from step
    `stop` on. The random numbers are pure functions of (seed, epoch, index of the image, position).
    """

    start: int
    stop: int
    seed: int = 0

    def share(self, step: int) -> float:
        """The probability that an image has a random order at a step, counted from 0."""
        if step >= self.stop:
            return 0.0
        return min(1.0, (self.stop - step) / max(1, self.stop - self.start))

    def at(self, step: int, batch: TokenBatch) -> Tensor:
        """The positions (B, T) in the order in which they are predicted."""
        samples = batch.epochs[:, None], batch.indices[:, None]
        positions = torch.arange(batch.tokens.shape[1], device=batch.tokens.device)[None]
        orders = of_samples(self.seed, ORDER, *samples, positions).argsort(dim=1, stable=True)  # (B, T)
        return torch.where(of_samples(self.seed, CHOICE, *samples) < self.share(step), orders, positions)


class GivenPositions(nn.Embedding):
    """A learned embedding of the position of the token that is given where another one is predicted."""

    def __init__(self, n_positions: int, width: int) -> None:
        super().__init__(n_positions, width)
        nn.init.zeros_(self.weight)

    def forward(self, orders: Tensor) -> Tensor:  # type: ignore[override]
        """What is added to the input, (B, T, C), for the predicted positions (B, T): 0 where the start is given."""
        return shifted(self.weight[orders])


def shifted(values: Tensor) -> Tensor:
    """(..., T, C), one position later: 0 comes first, and the last one is left out."""
    return F.pad(values[..., :-1, :], (0, 0, 1, 0))
