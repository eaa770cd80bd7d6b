"""What a tokenizer is: images to tokens and back."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from igpt.errors import IgptError


class Tokenizer(ABC):
    """Square images to tokens and back; immutable, so that its fingerprint stands for it.

    An image is a grid of cells of `cell` x `cell` pixels, in raster order. Each cell has `tokens_per_cell` tokens,
    which are next to each other. A tokenizer whose tokens describe other parts of an image overrides
    :meth:`n_tokens`, :meth:`resolution`, :meth:`arrange` and :meth:`n_given`.

    Abstract properties may be class attributes.
    """

    cell: int = 1  # pixels per side
    tokens_per_cell: int = 1
    lossless: bool = False  # whether decode(encode(images)) equals all images

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Number of different tokens."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A short name or hash; equal for tokenizers that give equal tokens."""

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """Tokens (N, T) int64 of uint8 images (N, H, W, 3), on the device of the images."""

    @abstractmethod
    def decode(self, tokens: Tensor) -> Tensor:
        """uint8 images (N, H, W, 3) of tokens (N, T), on the device of the tokens."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Tensors and plain values from which :meth:`from_state` makes an equal tokenizer."""

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Tokenizer:
        return cls(**state)

    # Where the tokens of an image are

    def n_tokens(self, resolution: int) -> int:
        """Tokens of one square image with `resolution` pixels per side."""
        side, rest = divmod(resolution, self.cell)
        if rest:
            raise IgptError(
                f"The tokenizer {self.fingerprint} makes tokens of {self.cell}x{self.cell} pixels, which images of "
                f"{resolution}x{resolution} cannot be divided into; set data.source.resolution to a multiple of "
                f"{self.cell}."
            )
        return self.tokens_per_cell * side**2

    def resolution(self, n_tokens: int) -> int:
        """Pixels per side of the square image that has `n_tokens` tokens."""
        side = math.isqrt(n_tokens // self.tokens_per_cell)
        if self.tokens_per_cell * side**2 != n_tokens:
            smaller, larger = (self.tokens_per_cell * n**2 for n in (side, side + 1))
            raise IgptError(
                f"{n_tokens} tokens of the tokenizer {self.fingerprint} do not make a square image; choose {smaller} "
                f"or {larger} tokens."
            )
        return self.cell * side

    def arrange(self, values: Tensor) -> Tensor:
        """One value per token (N, T), at the pixels that the token describes: (N, side, side, tokens_per_cell)."""
        side = self.resolution(values.shape[-1]) // self.cell
        grid = values.unflatten(-1, (side, side, self.tokens_per_cell))
        return grid.repeat_interleave(self.cell, dim=1).repeat_interleave(self.cell, dim=2)

    def grid(self, n_tokens: int) -> Tensor:
        """Index in the sequence of each token of each cell, (rows, columns, tokens_per_cell)."""
        return self.arrange(torch.arange(n_tokens)[None])[0, :: self.cell, :: self.cell]

    def tokens_at(self, pixels: Tensor) -> Tensor:
        """Tokens (N, T), bool, that describe at least one of the `pixels` (N, side, side), bool."""
        n_tokens = self.n_tokens(pixels.shape[-1])
        tokens = self.arrange(torch.arange(n_tokens)[None])[0].flatten(0, 1)  # (side * side, tokens_per_cell)
        counts = torch.zeros(len(pixels), n_tokens, dtype=torch.long)
        for each in tokens.unbind(-1):
            counts.index_add_(1, each, pixels.flatten(1).long())
        return counts > 0

    def region_weights(self, n: int, n_tokens: int) -> Tensor:
        """The share (n * n, T), float32, of each token in each of n x n regions of an image, in raster order.

        Pixel row r is in row r * n // side of the regions, and columns likewise. A token counts as often as it
        describes a pixel of the region; each row sums to 1.
        """
        tokens = self.arrange(torch.arange(n_tokens)[None])[0].flatten(0, 1)  # (side * side, tokens_per_cell)
        side = self.resolution(n_tokens)
        if not 1 <= n <= side:
            raise IgptError(f"regions is {n}; an image of {side}x{side} pixels has 1 to {side} regions per side.")
        part = torch.arange(side) * n // side
        region = (part[:, None] * n + part).flatten()  # (side * side,) of each pixel
        counts = torch.zeros(n * n, n_tokens)
        counts.index_put_((region[:, None], tokens), torch.ones(()), accumulate=True)
        return counts / counts.sum(dim=1, keepdim=True)

    def n_given(self, share: float, n_tokens: int) -> int:
        """Tokens in the first `share` of an image, rounded to whole rows of cells."""
        side = self.resolution(n_tokens) // self.cell
        return round(share * side) * side * self.tokens_per_cell

    def given_mask(self, n_given: int, n_tokens: int) -> Tensor:
        """Pixels (side, side), bool, that the first `n_given` of an image's `n_tokens` tokens describe completely."""
        given = torch.arange(n_tokens) < n_given
        return self.arrange(given[None])[0].all(dim=-1)


def require_uint8(images: Tensor) -> None:
    """Tokens are made of bytes and nothing else: a rounded or normalized image would give other tokens."""
    if images.dtype != torch.uint8 or images.shape[-1] != 3:
        raise TypeError(f"images must be uint8 with 3 channels last, not {images.dtype} {tuple(images.shape)}")
