"""Evaluations of the loss that L-BFGS probes of one layer take, fitted separately and one after another.

python benchmarks/probe_evaluations.py

Counts do not depend on the speed of the machine. The features are a random layer on the pixels of Fashion-MNIST.
"""

from __future__ import annotations

import tempfile
from typing import Any
from unittest.mock import patch

import torch
from table import Row, write_table
from torch import Tensor

from igpt.data.datamodule import ImageDataModule
from igpt.data.sources import FashionMNISTSource
from igpt.evaluation import lbfgs, linear_probe
from igpt.evaluation.linear_probe import fit_lbfgs, fit_one_by_one, standardize
from igpt.evaluation.probe_scores import ProbeSettings
from igpt.tokenizers import Gray

IMAGES, CHANNELS = 4000, 128


def make_data() -> tuple[Tensor, Tensor]:
    """Standardized features (1, N, C) of training images, and labels (N,)."""
    with tempfile.TemporaryDirectory() as folder:
        source = FashionMNISTSource(resolution=14)
        data = ImageDataModule(source, IMAGES, folder, IMAGES, tokenizer=Gray())
        data.prepare_data()
        data.setup()
        batch = next(data.labeled_images("train"))
    pixels = batch.images[..., 0].flatten(1).float() / 255  # (N, 196)
    layer = torch.randn(pixels.shape[1], CHANNELS, generator=torch.Generator().manual_seed(0))
    features = torch.tanh((pixels - pixels.mean(dim=0)) @ layer / 2)
    return standardize(features[None])[0], batch.labels


def evaluations(fit: Any, features: Tensor, labels: Tensor, penalties: list[float]) -> int:
    """How often `fit` evaluates the loss and its gradient."""
    count = 0

    def counting(terms: Any, *arguments: Any, **named: Any) -> Tensor:
        def one(x: Tensor) -> Tensor:
            nonlocal count
            count += 1
            return 0 * x.sum(dim=1)

        return lbfgs.minimize([*terms, one], *arguments, **named)

    with patch.object(linear_probe, "minimize", counting):
        fit(features, labels, 10, penalties)
    return count


def main() -> None:
    features, labels = make_data()
    penalties = sorted(ProbeSettings().penalties, reverse=True)
    separate = [evaluations(fit_lbfgs, features, labels, [penalty]) for penalty in penalties]
    until = [evaluations(fit_one_by_one, features, labels, penalties[: n + 1]) for n in range(len(penalties))]
    with patch.object(linear_probe, "curvature_pays", lambda *shape: False):
        warm = evaluations(fit_one_by_one, features, labels, penalties)
    rows: list[Row] = [
        {"penalty": f"{penalty:g}", "separate": alone, "one after another": after - before}
        for penalty, alone, before, after in zip(penalties, separate, [0, *until], until, strict=False)
    ]
    rows.append({"penalty": "all", "separate": sum(separate), "one after another": until[-1]})
    notes = (
        f"{IMAGES} training images of 14x14 pixels, {CHANNELS} features, 10 classes, float32, at most 500 evaluations "
        f"for each penalty. Without the curvature of each class, one after another: {warm} for all penalties."
    )
    write_table("probe_evaluations", "Evaluations of L-BFGS probes by penalty", rows, notes)


if __name__ == "__main__":
    main()
