"""Running mean and spread of the training loss, and the steps at which the loss is far above them."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass
class Spike:
    """A step whose loss is far above those before it."""

    step: int  # counted from 0
    loss: float
    mean: float  # of the losses before it
    deviation: float  # their standard deviation


@dataclass
class LossStatistics:
    """Exponential averages over about `horizon` steps. A loss is a spike if it is above the mean by more than
    `threshold` standard deviations. After a spike, the next one is reported after `horizon` steps at the earliest.

    A loss that is not finite leaves the averages alone; a spike counts in them as a loss at the threshold, so that they
    follow a loss that stays high.
    """

    threshold: float
    horizon: int
    steps: int = 0  # whose losses are in the averages
    mean: float = 0.0
    variance: float = 0.0
    silent_until: int = 0  # the first step at which the next spike is reported

    def add(self, step: int, loss: float) -> Spike | None:
        """Take the loss of a step, counted from 0, into account; the spike that it is, if it is to be reported."""
        if not math.isfinite(loss):
            return None
        deviation = math.sqrt(self.variance)
        limit = self.mean + self.threshold * deviation
        is_spike = self.steps >= self.horizon and loss > limit
        spike = Spike(step, loss, self.mean, deviation) if is_spike and step >= self.silent_until else None
        if spike is not None:
            self.silent_until = step + self.horizon
        self.steps += 1
        share = max(1 / self.steps, 1 / self.horizon)
        difference = (limit if is_spike else loss) - self.mean
        self.mean += share * difference
        self.variance = (1 - share) * (self.variance + share * difference**2)
        return spike
