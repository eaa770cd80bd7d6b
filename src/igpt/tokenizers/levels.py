"""Tokenizers without a palette: a token is one of the 256 levels of a color channel, or of gray."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from igpt.tokenizers.tokenizer import Tokenizer, require_uint8

# ITU-R BT.601 luma in 16-bit fixed point, 0.299 R + 0.587 G + 0.114 B; the weights sum to 1, so
# that gray does not change.
RED, GREEN, BLUE = (round(weight * 2**16) for weight in (0.299, 0.587, 0.114))


class Levels(Tokenizer):
    """What the tokenizers of levels share: they have no parameters."""

    vocab_size = 256

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def state(self) -> dict[str, Any]:
        return {}


class RGB(Levels):
    """Every channel of every pixel is a token: red, green, blue of one pixel, then of the next.

    Nothing is lost, but there are three times as many tokens as with a palette. Likelihoods can be given in bits per
    dimension, which compare with those of other models of the same images.
    """

    tokens_per_cell = 3
    lossless = True
    fingerprint = "rgb"

    def encode(self, images: Tensor) -> Tensor:
        """Tokens (N, H * W * 3) int64 of uint8 images (N, H, W, 3)."""
        require_uint8(images)
        return images.flatten(1).long()

    def decode(self, tokens: Tensor) -> Tensor:
        """uint8 images (N, side, side, 3) of tokens (N, side * side * 3)."""
        return self.arrange(tokens).to(torch.uint8)


class Gray(Levels):
    """A token is the luma of a pixel (ITU-R BT.601), as Pillow's `convert("L")` computes it; color is lost."""

    fingerprint = "gray"

    def encode(self, images: Tensor) -> Tensor:
        """Tokens (N, H * W) int64 of uint8 images (N, H, W, 3)."""
        require_uint8(images)
        red, green, blue = images.long().unbind(-1)  # each (N, H, W)
        luma = (RED * red + GREEN * green + BLUE * blue + 2**15) >> 16  # rounds halves up
        return luma.flatten(1)

    def decode(self, tokens: Tensor) -> Tensor:
        """Gray uint8 images (N, side, side, 3) of tokens (N, side * side)."""
        return self.arrange(tokens).to(torch.uint8).repeat(1, 1, 1, 3)
