"""Classifiers on the features of all layers, whose gradients come batch by batch.

Shapes: L layers, B images, T positions, C channels, K classes, R learning rates.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from igpt.model.pooling import averages

MOMENTUM = 0.9


class LinearHeads(nn.Module):
    """For each of L layers and R learning rates a linear classifier, trained by SGD with momentum on cross-entropy.

    All of them see the same batches, so that a step is one batched matrix product. They start at zero. Features are
    shifted by -`mean` and divided by `deviation`, (L, C) each.
    """

    mean: Tensor  # (L, 1, C)
    deviation: Tensor  # (L, 1, C)
    rates: Tensor  # (R)
    weight: Tensor  # (L, C + 1, R * K); the bias is the last row
    velocity: Tensor  # (L, C + 1, R * K)

    def __init__(self, mean: Tensor, deviation: Tensor, rates: Tensor, n_classes: int) -> None:
        super().__init__()
        n_layers, width = mean.shape
        self.n_classes = n_classes
        self.register_buffer("mean", mean[:, None])
        self.register_buffer("deviation", deviation[:, None])
        self.register_buffer("rates", rates)
        self.register_buffer("weight", mean.new_zeros(n_layers, width + 1, len(rates) * n_classes))
        self.register_buffer("velocity", torch.zeros_like(self.weight))

    def inputs(self, features: Tensor) -> Tensor:
        """Standardized features with a constant 1 for the bias, (L, B, C + 1), of features (L, B, C)."""
        return F.pad((features - self.mean) / self.deviation, (0, 1), value=1)

    def logits(self, inputs: Tensor) -> Tensor:
        """Class logits (L, B, R, K)."""
        return (inputs @ self.weight).unflatten(-1, (len(self.rates), self.n_classes))

    def predict(self, features: Tensor) -> Tensor:
        """Classes (L, R, B), int64."""
        return self.logits(self.inputs(features)).argmax(dim=-1).transpose(1, 2)

    def gradient(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient of the cross-entropy, summed over the images, and the share of correct classes (L, R)."""
        inputs = self.inputs(features)
        logits = self.logits(inputs)
        residual = logits.softmax(dim=-1) - F.one_hot(labels, self.n_classes)[:, None]  # (L, B, R, K)
        correct = logits.argmax(dim=-1) == labels[:, None]
        return inputs.mT @ residual.flatten(2), correct.float().mean(dim=1)

    def step(self, gradient: Tensor, decay: float) -> None:
        """One step of SGD along the gradient of the mean; all learning rates are multiplied by `decay`."""
        self.velocity.mul_(MOMENTUM).add_(gradient)
        rates = (decay * self.rates).repeat_interleave(self.n_classes)  # (R * K)
        self.weight.sub_(rates * self.velocity)


class AttentiveHead(nn.Module):
    """The classifier of one layer: a learned query attends to the sequence, instead of its average, in several heads.

    Attention pooling as in Toto (Rajasegaran et al. 2025) and AIM (El-Nouby et al. 2024).
    """

    def __init__(self, width: int, n_heads: int, n_classes: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.query = nn.Parameter(torch.randn(width) * width**-0.5)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        nn.init.normal_(self.key_value.weight, std=width**-0.5)
        self.classifier = nn.Linear(width, n_classes)
        nn.init.zeros_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, sequences: Tensor) -> Tensor:
        """Class logits (B, K) of sequences (B, T, C)."""
        split = (self.n_heads, -1)
        k, v = (x.unflatten(-1, split).transpose(1, 2) for x in self.key_value(sequences).chunk(2, dim=-1))
        q = self.query.unflatten(-1, split)[None, :, None].expand(len(sequences), -1, -1, -1)  # (B, h, 1, d)
        pooled = F.scaled_dot_product_attention(q, k, v).flatten(1)  # (B, C)
        return self.classifier(pooled)  # type: ignore[no-any-return]


class AttentiveHeads(nn.Module):
    """An :class:`AttentiveHead` for each of L layers. A layer's sequence is freed before the next one is computed."""

    def __init__(self, n_layers: int, width: int, n_heads: int, n_classes: int, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.layers = nn.ModuleList(AttentiveHead(width, n_heads, n_classes) for _ in range(n_layers))

    def forward(
        self, sequences: Iterator[Tensor], labels: Tensor | None = None, regions: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Means over the sequences (L, B, C), and classes (L, B), int64.

        With `labels` (B,), the gradients of the cross-entropy, summed over the images, are added to those of the heads.
        With `regions` (R, T) the means are (L, B, R * C), as in :func:`igpt.model.pooling.averages`.
        """
        means, classes = [], []
        for head, x in zip(self.layers, sequences, strict=True):
            with torch.set_grad_enabled(labels is not None):
                logits = head(x)
                if labels is not None:
                    F.cross_entropy(logits, labels, reduction="sum").backward()  # type: ignore[no-untyped-call]
            means.append(averages(x, regions))
            classes.append(logits.argmax(dim=-1))
        return torch.stack(means), torch.stack(classes)
