"""What a run leaves when its training ends: the test likelihood of its best checkpoint, pictures, one summary."""

from __future__ import annotations

import json
from typing import Any

import torch
from PIL.Image import Image

from igpt import figures
from igpt.data.datamodule import ImageDataModule
from igpt.evaluation.likelihood import Likelihood
from igpt.files import atomic_path
from igpt.pretrained import Pretrained
from igpt.run import RunDirectory
from igpt.tokenizers import Palette


def draw_figures(
    run: RunDirectory, pretrained: Pretrained, data: ImageDataModule, label: int | None, how: dict[str, Any]
) -> None:
    """Samples, completions of test images of the class `label`, the loss curve and the palette, into figures/; `how` is
    the temperature, top_k and top_p.
    """
    images = data.splits["test"].choose(8, label)
    completions = pretrained.complete(images, n=4, **how)
    pictures = {
        "samples": figures.grid(pretrained.sample(36, **how)),
        "completions": figures.completion_figure(images, completions, pretrained.given_rows(0.5)),
        "curve": figures.loss_curve(run.metrics),
    }
    if isinstance(pretrained.tokenizer, Palette):
        pictures |= palette_figures(pretrained.tokenizer, data)
    for name, picture in pictures.items():
        figures.save(picture, run.figures / f"{name}.png")


def palette_figures(palette: Palette, data: ImageDataModule) -> dict[str, Image]:
    """The palette's colours, and test images above their quantised selves."""
    images = data.splits["test"].choose(12)
    quantised = palette.decode(palette.encode(torch.from_numpy(images))).numpy()
    return {"palette": figures.swatches(palette.colours), "quantised": figures.quantised_strip(images, quantised)}


def likelihood_values(test: Likelihood, pretrained: Pretrained, split: str = "test") -> dict[str, Any]:
    """A split's likelihood as flat values, with the palette's PSNR beside it: losses of two palettes do not compare."""
    values: dict[str, Any] = {
        f"{split}/nats_per_token": test.nats_per_token,
        f"{split}/bits_per_token": test.bits_per_token,
        f"{split}/standard_error": test.standard_error,
        f"{split}/images": test.n_images,
        "vocab_size": pretrained.tokenizer.vocab_size,
        "tokenizer": pretrained.tokenizer.fingerprint,
    }
    if isinstance(pretrained.tokenizer, Palette) and "psnr_db" in pretrained.tokenizer.info:
        values["palette_psnr_db"] = pretrained.tokenizer.info["psnr_db"]
    return values


def write_summary(run: RunDirectory, values: dict[str, Any]) -> None:
    """summary.json: one flat object."""
    with atomic_path(run.summary) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n")
