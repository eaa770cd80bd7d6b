"""What a run leaves when its training ends: numbers on held-out images, pictures, one summary."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image

from igpt import figures
from igpt.data.datamodule import ImageDataModule
from igpt.evaluation.classification import predict_split
from igpt.evaluation.labels import left_out
from igpt.evaluation.likelihood import split_likelihood
from igpt.figures import Images
from igpt.files import atomic_path
from igpt.pretrained import Pretrained
from igpt.tokenizers import Palette, palette_of

log = logging.getLogger(__name__)


def evaluate(pretrained: Pretrained, data: ImageDataModule, split: str) -> tuple[dict[str, Any], dict[str, Image]]:
    """Flat values and figures for a split: the likelihood, and accuracy and confusion of a fine-tuned model.

    The palette's PSNR stands beside the loss, since losses under two palettes do not compare. Bits per dimension (a
    pixel has three) do compare; they are those of an autoregressive model whose tokenizer loses nothing.
    """
    likelihood = split_likelihood(pretrained, data, split)
    values: dict[str, Any] = {
        f"{split}/nats_per_token": likelihood.nats_per_token,
        f"{split}/bits_per_token": likelihood.bits_per_token,
        f"{split}/standard_error": likelihood.standard_error,
        f"{split}/images": likelihood.n_images,
        "vocab_size": pretrained.tokenizer.vocab_size,
        "tokenizer": pretrained.tokenizer.fingerprint,
    }
    if pretrained.tokenizer.lossless and pretrained.task.causal:
        bits_per_pixel = likelihood.bits_per_token * pretrained.tokenizer.tokens_per_pixel
        values[f"{split}/bits_per_dimension"] = bits_per_pixel / 3
    palette = palette_of(pretrained.tokenizer)
    if palette is not None and "psnr_db" in palette.info:
        values["palette_psnr_db"] = palette.info["psnr_db"]
    if pretrained.class_head is None:
        return values, {}
    predictions = predict_split(pretrained, data, split)
    n_labeled = 0 if predictions is None else len(predictions.labels)
    if n_labeled < likelihood.n_images:
        log.warning(left_out(split, likelihood.n_images - n_labeled, likelihood.n_images, "the accuracy"))
    if predictions is None:
        return values, {}
    values[f"{split}/accuracy"] = predictions.accuracy
    values[f"{split}/accuracy_standard_error"] = predictions.standard_error
    values[f"{split}/labeled_images"] = n_labeled
    confusion = predictions.confusion(len(pretrained.classes))
    return values, {"confusion": figures.confusion(confusion, pretrained.classes)}


def palette_figures(palette: Palette, images: Images) -> dict[str, Image]:
    """The palette's colors, and images above their quantized selves."""
    quantized = palette.decode(palette.encode(torch.from_numpy(images))).numpy()
    return {"palette": figures.swatches(palette.colors), "quantized": figures.quantized_strip(images, quantized)}


def write_json(values: dict[str, Any], path: Path) -> None:
    """One flat object, written whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n")
