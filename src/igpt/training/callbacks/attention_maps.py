"""Which pixels a model looks at, during training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from igpt import figures
from igpt.data.datamodule import ImageDataModule
from igpt.errors import IgptError
from igpt.evaluation.attention import attention_to_tokens, require_queries_and_keys
from igpt.figures import Images
from igpt.model.transformer import Transformer
from igpt.objectives.objective import Objective
from igpt.tokenizers import Tokenizer
from igpt.training.callbacks.intervals import due_at_validation
from igpt.training.loggers.media import log_image

MOST_LAYERS = 12  # of more, some are shown, from the first to the last


class AttentionMaps(pl.Callback):
    """At the first validation after each multiple of `every_n_steps` steps, shows the attention of some pixels of
    `n_images` validation images in each layer, averaged over the heads: attention/step_*.png in `directory`, the last
    one also in figures/.

    `pixels` are [row, column] of each; None are four around the middle. Of several tokens per cell, the last one is the
    query, and the attention to the others is added up.

    The model only runs forward, without gradients or random numbers, so training is bitwise the same as without it.
    """

    def __init__(
        self, directory: str, every_n_steps: int, n_images: int = 2, pixels: Sequence[Sequence[int]] | None = None
    ) -> None:
        self.directory = Path(directory)
        self.every_n_steps = every_n_steps
        self.n_images = n_images
        self.pixels = pixels

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        assert isinstance(pl_module, Objective)
        require_queries_and_keys(pl_module.model)
        data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
        side = data.source.resolution
        for pixel in self.pixels or ():
            if max(pixel) >= side:
                raise IgptError(f"Attention maps are asked for at {list(pixel)}; pixels have rows 0 to {side - 1}.")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not due_at_validation(trainer, self.every_n_steps):
            return
        assert isinstance(pl_module, Objective)
        data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
        model = pl_module.trained_model()  # of all processes
        if not trainer.is_global_zero:
            return
        images = data.splits["validation"].choose(self.n_images)
        side = data.source.resolution
        pixels = self.pixels or around_the_middle(side)
        figure = attention_figure(model, data.tokenizer, images, pixels)
        path = self.directory / "attention" / f"step_{trainer.global_step:07d}.png"
        log_image(trainer, "attention", figures.save(figure, path))
        figures.save(figure, self.directory / "figures" / "attention.png")


def around_the_middle(side: int) -> list[tuple[int, int]]:
    """Four pixels, [row, column]: above the middle of an image, left and right of it, and below."""
    middle, near = side // 2, side // 4
    return [(near, middle), (middle, near), (middle, side - 1 - near), (side - 1 - near, middle)]


def attention_figure(
    model: Transformer, tokenizer: Tokenizer, images: Images, pixels: Sequence[Sequence[int]]
) -> Image.Image:
    """One row for each pixel of each image; one column for the image, and one for each layer."""
    tokens = tokenizer.encode(torch.from_numpy(images)).to(model.head.weight.device)
    queries = query_tokens(tokenizer, tokens.shape[1], pixels)
    maps = attention_to_tokens(model, tokens, queries.to(tokens.device)).cpu()  # (L, B, n, T)
    layers = np.unique(np.linspace(0, len(maps) - 1, min(MOST_LAYERS, len(maps))).round().astype(int))
    by_pixel = tokenizer.arrange(maps[layers].flatten(0, 2)).sum(dim=-1).unflatten(0, (len(layers), *maps.shape[1:3]))
    seen = torch.stack([seen_pixels(tokenizer, model.config.causal, tokens.shape[1], int(q)) for q in queries])
    shown: NDArray[np.float32] = by_pixel.where(seen, torch.nan).permute(1, 2, 0, 3, 4).numpy()  # (B, n, L, side, side)
    return figures.attention(images, pixels, shown, [int(layer) for layer in layers])


def query_tokens(tokenizer: Tokenizer, n_tokens: int, pixels: Sequence[Sequence[int]]) -> Tensor:
    """The position in the sequence (n,) of the last token that describes each pixel."""
    at_pixels = tokenizer.arrange(torch.arange(n_tokens)[None])[0]  # (side, side, k)
    return torch.stack([at_pixels[row, column].max() for row, column in pixels])


def seen_pixels(tokenizer: Tokenizer, causal: bool, n_tokens: int, query: int) -> Tensor:
    """The pixels (side, side), bool, of which a position of the sequence is given at least one token."""
    tokens = torch.arange(n_tokens)
    given = tokens < query if causal else tokens != query
    return tokenizer.arrange(given[None])[0].any(dim=-1)
