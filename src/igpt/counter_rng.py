"""Random numbers as pure functions of counters. Without state, they do not depend on workers, processes or resumes."""

from __future__ import annotations

import torch
from torch import Tensor


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical shift, which fills with zeros; torch's own repeats the sign bit."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    """The finalizer of SplitMix64 (Steele, Lea and Flood 2014): every input bit changes half of the output bits."""
    x = (x ^ _shift_right(x, 30)) * -0x40A7B892E31B1A47  # 0xBF58476D1CE4E5B9 as a signed number
    x = (x ^ _shift_right(x, 27)) * -0x6B2FB644ECCEEE15  # 0x94D049BB133111EB
    return x ^ _shift_right(x, 31)


def uniform(seed: int, *counters: Tensor) -> Tensor:
    """Numbers in [0, 1), float64, as a function of `seed` and the int64 `counters`, which broadcast.

    They are equal on all devices, since they take only integer arithmetic modulo 2^64 and one exact division.
    """
    # Made on the device, since a copy to it would wait for it.
    state = torch.full((), seed, dtype=torch.int64, device=counters[0].device)
    for counter in counters:
        state = _mix(state + counter * -0x61C8864680B583EB + 1)  # 0x9E3779B97F4A7C15, bits of the golden ratio
    return _shift_right(state, 11).double() / 2**53
