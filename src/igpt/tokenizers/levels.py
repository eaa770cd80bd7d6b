"""Tokenizers without a palette: a token is one of the 256 levels of a color channel, or of gray."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from igpt.tokenizers.tokenizer import Tokenizer, require_uint8

# ITU-R BT.601 luma in 16-bit fixed point, 0.299 R + 0.587 G + 0.114 B; the weights add up to 1, so that gray stays.
RED, GREEN, BLUE = (round(weight * 2**16) for weight in (0.299, 0.587, 0.114))


class RGB(Tokenizer):
    """Every channel of every pixel is a token: red, green, blue of one pixel, then of the next.

    Nothing is lost, at the price of three times as many tokens as a palette gives; likelihoods are in bits per
    dimension, which compare with those of other models of the same images.
    """

    kind: ClassVar[str] = "rgb"
    vocab_size = 256
    tokens_per_pixel = 3
    lossless = True
    fingerprint = kind

    def __repr__(self) -> str:
        return "RGB()"

    def encode(self, images: Tensor) -> Tensor:
        """Tokens (N, H * W * 3) int64 of uint8 images (N, H, W, 3)."""
        require_uint8(images)
        return images.flatten(1).long()

    def decode(self, tokens: Tensor) -> Tensor:
        """uint8 images (N, side, side, 3) of tokens (N, side * side * 3)."""
        return self.arrange(tokens).to(torch.uint8)

    def state_dict(self) -> dict[str, Any]:
        return {"kind": self.kind}


class Gray(Tokenizer):
    """A token is a pixel's luma (ITU-R BT.601), as Pillow's `convert("L")` computes it; color is lost."""

    kind: ClassVar[str] = "gray"
    vocab_size = 256
    tokens_per_pixel = 1
    lossless = False
    fingerprint = kind

    def __repr__(self) -> str:
        return "Gray()"

    def encode(self, images: Tensor) -> Tensor:
        """Tokens (N, H * W) int64 of uint8 images (N, H, W, 3)."""
        require_uint8(images)
        red, green, blue = images.long().unbind(-1)
        luma = (RED * red + GREEN * green + BLUE * blue + 2**15) >> 16  # rounds halves up
        return luma.flatten(1)

    def decode(self, tokens: Tensor) -> Tensor:
        """Gray uint8 images (N, side, side, 3) of tokens (N, side * side)."""
        return self.arrange(tokens).to(torch.uint8).repeat(1, 1, 1, 3)

    def state_dict(self) -> dict[str, Any]:
        return {"kind": self.kind}
