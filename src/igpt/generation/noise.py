"""The random numbers of sampling, without a generator and its state."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from igpt import counter_rng
from igpt.errors import IgptError

TOKEN, ORDER = 41, 42  # streams of random numbers: which token a position gets, which tokens a pass keeps
BITS = 31  # of a random integer


@dataclass(frozen=True)
class Noise:
    """The random numbers for the images of one batch: `copies` of each of the `prompts`, those of one prompt adjacent.

    Each number is a pure function of (seed, prompt, copy, position, pass). An image therefore does not depend on
    the batch it is generated in, nor on threads, device or memory. All tensors are made on the CPU.

    Raises :class:`IgptError` for a seed that is not a signed 64-bit integer.
    """

    seed: int
    prompts: range
    copies: range

    def __post_init__(self) -> None:
        if not -(2**63) <= self.seed < 2**63:
            raise IgptError(f"seed is {self.seed}; it must be from -2^63 to 2^63 - 1.")

    def integers(self, n_positions: int, pass_number: int = 0) -> Tensor:
        """Uniform integers (B, T) in [0, 2^BITS), int64, which :func:`~igpt.generation.choose.choose_token` takes."""
        return (self._uniform(TOKEN, n_positions, pass_number) * 2**BITS).long()

    def gumbel(self, n_positions: int, pass_number: int) -> Tensor:
        """Standard Gumbel noise (B, T), float32."""
        uniform = self._uniform(ORDER, n_positions, pass_number).clamp(min=2**-53)  # the logarithm of 0 is not finite
        return -(-uniform.log()).log().float()

    def _uniform(self, stream: int, n_positions: int, pass_number: int) -> Tensor:
        """float64 (B, T) in [0, 1)."""
        prompts, copies = torch.cartesian_prod(torch.tensor(self.prompts), torch.tensor(self.copies)).T[..., None]
        numbers = torch.tensor(stream), torch.tensor(pass_number), prompts, copies, torch.arange(n_positions)
        return counter_rng.uniform(self.seed, *numbers)
