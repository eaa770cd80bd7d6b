"""What every tokenizer can do."""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from torch import Tensor

from igpt.errors import IgptError


class Tokenizer(Protocol):
    """Images to tokens and back; immutable, so that its fingerprint stands for it.

    A pixel is described by `tokens_per_pixel` tokens, which stand together. Tokenizers inherit from this class; their
    pixels come in raster order, unless they override :meth:`arrange`.
    """

    @property
    def vocab_size(self) -> int:
        """Number of different tokens."""

    @property
    def tokens_per_pixel(self) -> int:
        """Tokens that describe one pixel."""

    @property
    def lossless(self) -> bool:
        """Whether decode(encode(images)) equals all images, so that a likelihood in bits per dimension has a sense."""

    @property
    def fingerprint(self) -> str:
        """A short name or hash; equal for tokenizers that give equal tokens."""

    def encode(self, images: Tensor) -> Tensor:
        """Tokens (N, T) int64 of uint8 images (N, H, W, 3), on the device of the images."""

    def decode(self, tokens: Tensor) -> Tensor:
        """uint8 images (N, H, W, 3), square, of tokens (N, T), on the device of the tokens."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values from which :func:`igpt.tokenizers.from_state` makes an equal tokenizer."""

    # What follows from these

    def n_tokens(self, resolution: int) -> int:
        """Tokens of one square image with `resolution` pixels a side."""
        return self.tokens_per_pixel * resolution**2

    def resolution(self, n_tokens: int) -> int:
        """Pixels a side of the square image that has `n_tokens` tokens."""
        side = math.isqrt(n_tokens // self.tokens_per_pixel)
        if self.n_tokens(side) != n_tokens:
            raise IgptError(
                f"{n_tokens} tokens at {self.tokens_per_pixel} a pixel do not make a square picture; choose "
                f"{self.n_tokens(side)} tokens ({side}x{side} pixels) or {self.n_tokens(side + 1)}."
            )
        return side

    def arrange(self, values: Tensor) -> Tensor:
        """One value a token (N, T), laid out at the pixels they describe: (N, side, side, tokens_per_pixel)."""
        side = self.resolution(values.shape[-1])
        return values.unflatten(-1, (side, side, self.tokens_per_pixel))

    def given_mask(self, n_given: int, n_tokens: int) -> Tensor:
        """Pixels (side, side), bool, that the first `n_given` of an image's `n_tokens` tokens describe completely."""
        given = torch.arange(n_tokens) < n_given
        return self.arrange(given[None])[0].all(dim=-1)


def require_uint8(images: Tensor) -> None:
    """Tokens are made of bytes and nothing else: a rounded or normalized image would give other tokens."""
    if images.dtype != torch.uint8 or images.shape[-1] != 3:
        raise TypeError(f"images must be uint8 with 3 channels last, not {images.dtype} {tuple(images.shape)}")
