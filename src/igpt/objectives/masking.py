"""Which tokens a masked model does not see: pure functions of (seed, epoch, sample, position)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from igpt.batch import TokenBatch
from igpt.counter_rng import of_samples
from igpt.errors import IgptError

# Each kind of random number has its own stream.
POSITION, RATIO, TREATMENT, TOKEN = 11, 12, 13, 14


class Corrupted(NamedTuple):
    """Tokens as a masked model gets them."""

    tokens: Tensor  # (B, T) int64, some replaced by random ones
    masked: Tensor  # (B, T) bool, whose embedding is multiplied by 0
    predicted: Tensor  # (B, T) bool, the chosen positions, which the loss counts


@dataclass(frozen=True)
class Masking:
    """Each position is chosen independently with probability `ratio` (the paper: 0.15), and at least one per image.

    With `max_ratio`, the ratio of each image is uniformly distributed in [ratio, max_ratio]. `bert=True` treats the
    chosen positions as BERT does (Devlin et al. 2018): 80% are hidden, 10% replaced by a random token, 10% kept.
    """

    ratio: float = 0.15
    max_ratio: float | None = None
    bert: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.ratio <= (self.max_ratio or self.ratio) <= 1:
            raise IgptError(
                f"objective.ratio={self.ratio}, objective.max_ratio={self.max_ratio}: a mask ratio lies in (0, 1], and "
                "max_ratio is not below ratio."
            )

    def apply(self, batch: TokenBatch, vocab_size: int) -> Corrupted:
        """Choose positions by the batch's epochs and indices, and corrupt the tokens there."""
        samples = batch.epochs[:, None], batch.indices[:, None]
        positions = torch.arange(batch.tokens.shape[1], device=batch.tokens.device)[None]
        chance = of_samples(self.seed, POSITION, *samples, positions)  # (B, T)
        share = of_samples(self.seed, RATIO, *samples)  # (B, 1)
        ratio = self.ratio + share * ((self.max_ratio or self.ratio) - self.ratio)
        predicted = (chance < ratio) | (chance == chance.amin(dim=1, keepdim=True))
        if not self.bert:
            return Corrupted(batch.tokens, predicted, predicted)
        treatment = of_samples(self.seed, TREATMENT, *samples, positions)
        random_tokens = (of_samples(self.seed, TOKEN, *samples, positions) * vocab_size).long()
        replaced = predicted & (treatment >= 0.8) & (treatment < 0.9)
        return Corrupted(torch.where(replaced, random_tokens, batch.tokens), predicted & (treatment < 0.8), predicted)

    def fixed(self, batch: TokenBatch, mask_index: int = 0) -> TokenBatch:
        """The batch for evaluation: :meth:`apply` gives each sample the fixed mask number `mask_index`.

        A fixed mask is that of a negative epoch, which training never reaches.
        """
        return batch._replace(epochs=torch.full_like(batch.epochs, -1 - mask_index))
