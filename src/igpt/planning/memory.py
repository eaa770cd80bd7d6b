"""Peak memory of a training step on one device, by kind, in bytes.

T positions, C = n_embd channels, h heads, V colors, L blocks. The closed forms count the tensors that autograd saves in
`igpt.model.transformer`, with the default parts and fused attention, which never stores a T x T matrix.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass

from igpt.model.config import TransformerConfig
from igpt.planning.devices import Precision

FLOAT32 = 4  # bytes of a number
State = tuple[float, float, float]  # weights, gradients, optimizer
Passes = tuple[float, float, float]  # activations, logits, recomputed


@dataclass(frozen=True)
class Memory:
    """Bytes by kind."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float  # log-probabilities, and the gradients of these and of the logits
    recomputed: float = 0.0  # activations of the one block that activation checkpointing recomputes at a time
    average: float = 0.0  # of the weights over the steps (callbacks=ema), in float32
    gathered: float = 0.0  # whole weights and gradients of the parts that compute, if the devices share one model

    @property
    def state(self) -> float:
        """Bytes that do not depend on the batch."""
        return self.weights + self.gradients + self.optimizer + self.average + self.gathered

    @property
    def passes(self) -> float:
        """The most that forward and backward pass need at once: blocks are recomputed after the logits are freed."""
        return self.activations + max(self.logits, self.recomputed)

    @property
    def peak(self) -> float:
        """The peak. The optimizer's step, after the activations are freed, takes about one more copy of the weights."""
        return self.state + max(self.passes, self.weights)


def state_memory(
    parameters: int, optimizer_values: int, precision: Precision, devices: int, sharded: bool = False
) -> State:
    """Bytes of weights, gradients and optimizer state on a device: all of them, or its share if they are sharded. DDP's
    buckets are a second copy of the gradients.
    """
    weights, optimizer = float(parameters * precision.weight), float(optimizer_values * precision.weight)
    if sharded:
        return weights / devices, weights / devices, optimizer / devices
    return weights, weights * (2 if devices > 1 else 1), optimizer


def gathered_memory(parameters: int, block: int, precision: Precision) -> float:
    """Bytes that a device gathers of a sharded model: weights of the block that computes and of the next one, gradients
    of a block (each of `block` parameters), and weights and gradients of what is outside of the blocks (`parameters`).
    """
    return float((2 * parameters + 3 * block) * precision.weight)


def block_memory(config: TransformerConfig, precision: Precision, tokens: int) -> float:
    """Bytes that a block saves for its backward pass on `tokens` = images x T positions.

    Per token: the inputs of two norms, and their scales; the first norm's output, queries, keys, values and the
    attention's output (5 C), with one log-sum-exp per head; the second norm's output (C); input and output of the GELU
    (8 C). Independent of the batch: copies of the weights, either cast, or scaled for the GELU (the MLP's two).
    """
    width, residual, activation = config.n_embd, precision.weight, precision.activation
    norms = 2 * (width * residual + 4)
    products = 14 * width * activation + 4 * config.n_head
    copies = 12 * width**2 * activation if precision.casts else 8 * width**2 * residual
    return float(tokens * (norms + products) + copies)


def activation_memory(config: TransformerConfig, precision: Precision, images: int, checkpointed: bool) -> Passes:
    """Bytes of activations, logits and the recomputed block, in a forward and backward pass over `images`.

    With activation checkpointing, a block saves only its input, and is recomputed for its gradients.
    """
    tokens, width = images * config.n_positions, config.n_embd
    block = block_memory(config, precision, tokens)
    final_norm = width * precision.weight + 4
    last = float(tokens * (final_norm + width * precision.activation + 8))  # and the tokens themselves
    logits = float(3 * FLOAT32 * tokens * config.vocab_size)  # in any precision
    if not checkpointed:
        return config.n_layer * block + last, logits, 0.0
    return float(config.n_layer * tokens * width * precision.weight) + last, logits, block


def largest_batch(peak: Callable[[int], float], limit: float) -> int:
    """The largest number of images whose `peak` is within `limit`, or 0. The peak must not fall with their number."""
    return bisect_right(range(1, 2**24), limit, key=peak)
