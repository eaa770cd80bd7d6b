"""Peak memory of a training step on one device, by part, in bytes.

T positions, C = n_embd channels, h heads, V colors, L blocks. The closed forms count what autograd keeps of
`igpt.model.transformer` under fused attention, which never holds a T x T matrix.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass

from igpt.model.config import TransformerConfig
from igpt.planning.devices import Precision

State = tuple[float, float, float]
Passes = tuple[float, float, float]


@dataclass(frozen=True)
class Memory:
    """Bytes by part. `logits` holds them as log-probabilities, with both gradients. `recomputed` is the one block that
    checkpointing has whole at a time.
    """

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    recomputed: float = 0.0

    @property
    def state(self) -> float:
        """What does not depend on the batch."""
        return self.weights + self.gradients + self.optimizer

    @property
    def passes(self) -> float:
        """The most that forward and backward need at once: a block is recomputed when the logits are gone."""
        return self.activations + max(self.logits, self.recomputed)

    @property
    def peak(self) -> float:
        """The optimizer's step, which comes when the activations are gone, takes about one more copy of the weights."""
        return self.state + max(self.passes, self.weights)


def state_memory(parameters: int, optimizer_values: int, precision: Precision, devices: int) -> State:
    """Weights, gradients and optimizer state. DDP's buckets are a second copy of the gradients."""
    weights = float(parameters * precision.weight)
    return weights, weights * (2 if devices > 1 else 1), float(optimizer_values * precision.weight)


def block_memory(config: TransformerConfig, precision: Precision, tokens: int, fused_norm: bool = True) -> float:
    """What a block keeps for its backward pass on `tokens` = images x T positions.

    A token: the inputs of two norms, and their scales; the first norm's output, queries, keys, values and the
    attention's output (5 C), with one log-sum-exp a head; the second norm's output (C); both sides of the GELU (8 C).
    A norm that is not fused keeps its scaled input, too. Whatever the batch: the weights as the products took them,
    which are casts, or the MLP's two, scaled.
    """
    width, residual, activation = config.n_embd, precision.weight, precision.activation
    norms = 2 * ((1 if fused_norm else 2) * width * residual + 4)
    products = 14 * width * activation + 4 * config.n_head
    copies = 12 * width**2 * activation if precision.casts else 8 * width**2 * residual
    return float(tokens * (norms + products) + copies)


def activation_memory(
    config: TransformerConfig, precision: Precision, images: int, checkpointed: bool, fused_norm: bool = True
) -> Passes:
    """Activations, logits and the recomputed block of a forward and backward pass over `images`.

    Checkpointed, a block keeps its input alone, and is calculated again when its gradients are due.
    """
    tokens, width = images * config.n_positions, config.n_embd
    block = block_memory(config, precision, tokens, fused_norm)
    final_norm = (1 if fused_norm else 2) * width * precision.weight + 4
    last = float(tokens * (final_norm + width * precision.activation + 8))  # and the tokens themselves
    logits = float(3 * 4 * tokens * config.vocab_size)  # float32 in any precision
    if not checkpointed:
        return config.n_layer * block + last, logits, 0.0
    return float(config.n_layer * tokens * width * precision.weight) + last, logits, block


def largest_batch(peak: Callable[[int], float], limit: float) -> int:
    """The most images whose `peak`, which must not fall with their number, stays within `limit`; 0 if not even one."""
    return bisect_right(range(1, 2**24), limit, key=peak)
