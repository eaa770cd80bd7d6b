"""The likelihood of held-out images, by which pre-training runs are compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from igpt import figures
from igpt.data.datamodule import ImageDataModule
from igpt.data.packed import PackedImages
from igpt.evaluation.evaluator import Evaluation, Evaluator, Table
from igpt.evaluation.standard_error import standard_error
from igpt.pretrained import Pretrained
from igpt.tokenizers import palette_of


class LikelihoodEvaluator(Evaluator):
    """Nats and bits per token, averaged over the images, and the standard error of the nats by groups of images.

    For a masked model they are those of the masked tokens given the others, under one fixed mask per image, so that two
    evaluations give the same number.

    Losses under two palettes do not compare, so the tokenizer and the PSNR of its palette are among the values. Bits
    per dimension (a pixel has three) do compare. They are defined for autoregressive models on a lossless tokenizer.

    The table "likelihood" has the most and the least likely images, and the figure shows them: the most likely ones in
    the first half.

    A classifier without an output matrix, as those of transformers, has no likelihood.
    """

    def evaluate(self, pretrained: Pretrained, data: ImageDataModule, split: str) -> Evaluation:
        if not pretrained.predicts_tokens:
            return Evaluation()
        batches = data.token_batches(split, activity="Evaluating")
        nats = torch.cat([pretrained.nats(batch).double().cpu() for batch in batches])  # (N,)
        bits_per_token = nats.mean().item() / math.log(2)
        tokenizer = pretrained.tokenizer
        values: dict[str, Any] = {
            f"{split}/nats_per_token": nats.mean().item(),
            f"{split}/bits_per_token": bits_per_token,
            f"{split}/standard_error": float(standard_error(nats.numpy(), data.splits[split].groups)),
            f"{split}/images": len(nats),
            "vocab_size": tokenizer.vocab_size,
            "tokenizer": tokenizer.fingerprint,
        }
        if tokenizer.lossless and pretrained.task.causal:
            dimensions = 3 * pretrained.resolution**2
            values[f"{split}/bits_per_dimension"] = bits_per_token * pretrained.model.config.n_positions / dimensions
        palette = palette_of(tokenizer)
        if palette is not None and "psnr_db" in palette.info:
            values["palette_psnr_db"] = palette.info["psnr_db"]
        extremes = most_and_least_likely(nats.numpy(), data.splits[split], data.source.classes)
        assert extremes.images is not None
        return Evaluation(values, {"likelihood": figures.grid(extremes.images, columns=8)}, {"likelihood": extremes})


def most_and_least_likely(
    nats: NDArray[np.float64], images: PackedImages, classes: Sequence[str], n: int = 16
) -> Table:
    """The `n` most likely images, and the `n` least likely ones, by their nats per token (N,), in this order: number in
    the split, class, nats per token. All images, if there are at most twice as many.
    """
    order = np.argsort(nats, kind="stable")
    chosen = order if len(order) <= 2 * n else np.concatenate([order[:n], order[-n:]])
    labels = images.labels[chosen]
    rows = [
        {"image": int(i), "class": classes[label] if label >= 0 else "", "nats_per_token": float(nats[i])}
        for i, label in zip(chosen, labels, strict=True)
    ]
    return Table(rows, images.images[chosen])
