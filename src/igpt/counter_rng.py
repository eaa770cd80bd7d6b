"""Random numbers as pure functions of counters. Without state, they do not depend on workers, processes or resumes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

RANGE = 2**53  # random integers are below it, since a float64 has 53 bits

Integers = Any  # int64, a tensor or a NumPy array; the arithmetic of both is modulo 2^64


def _shift_right(x: Integers, bits: int) -> Integers:
    """Logical shift, which fills with zeros; the operator repeats the sign bit."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Integers) -> Integers:
    """The finalizer of SplitMix64 (Steele, Lea and Flood 2014): every input bit changes half of the output bits."""
    x = (x ^ _shift_right(x, 30)) * -0x40A7B892E31B1A47  # 0xBF58476D1CE4E5B9 as a signed number
    x = (x ^ _shift_right(x, 27)) * -0x6B2FB644ECCEEE15  # 0x94D049BB133111EB
    return x ^ _shift_right(x, 31)


def integers(seed: int, first: Integers, *others: Integers) -> Integers:
    """Integers in [0, RANGE), int64, as a function of `seed` and the int64 counters, which broadcast.

    The counters are all tensors, or all NumPy arrays, which are several times as fast if they are small.
    """
    state = _mix(seed + first * -0x61C8864680B583EB + 1)  # 0x9E3779B97F4A7C15, bits of the golden ratio
    for counter in others:
        state = _mix(state + counter * -0x61C8864680B583EB + 1)
    return _shift_right(state, 11)


def uniform(seed: int, *counters: Tensor) -> Tensor:
    """Numbers in [0, 1), float64, as a function of `seed` and the int64 `counters`, which broadcast.

    They are equal on all devices, since they take only integer arithmetic modulo 2^64 and one exact division.
    """
    numbers: Tensor = integers(seed, *counters).double() / RANGE
    return numbers


def of_samples(seed: int, stream: int, epochs: Tensor, indices: Tensor, *counters: Tensor) -> Tensor:
    """:func:`uniform` numbers for samples, by their epochs and indices; `stream` is a constant for each use."""
    return uniform(seed, torch.full_like(indices, stream), epochs, indices, *counters)
