"""A tokenizer that goes through the pixels in another order than row by row."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from igpt.tokenizers.color_palette import Palette
from igpt.tokenizers.orders import RANDOM, RASTER, order, require_order
from igpt.tokenizers.tokenizer import Tokenizer


class Ordered(Tokenizer):
    """`tokenizer` with its pixels in the order `order_name` (see :func:`igpt.tokenizers.orders.order`).

    The tokens of one pixel stay together.
    """

    kind: ClassVar[str] = "ordered"

    def __init__(self, tokenizer: Tokenizer, order_name: str, seed: int = 0) -> None:
        require_order(order_name)
        self.tokenizer = tokenizer
        self.order_name = order_name
        self.seed = seed
        self._on_device: dict[tuple[int, torch.device], Tensor] = {}

    def __repr__(self) -> str:
        return f"Ordered({self.tokenizer!r}, {self.order_name!r}, seed={self.seed})"

    @property
    def vocab_size(self) -> int:
        return self.tokenizer.vocab_size

    @property
    def tokens_per_pixel(self) -> int:
        return self.tokenizer.tokens_per_pixel

    @property
    def lossless(self) -> bool:
        return self.tokenizer.lossless

    @property
    def fingerprint(self) -> str:
        seed = f"-{self.seed}" if self.order_name == RANDOM else ""
        return f"{self.tokenizer.fingerprint}-{self.order_name}{seed}"

    def encode(self, images: Tensor) -> Tensor:
        """Tokens (N, T) int64 of square uint8 images (N, side, side, 3)."""
        tokens = self.tokenizer.encode(images)
        return self._take_pixels(tokens, self._order(tokens))

    def decode(self, tokens: Tensor) -> Tensor:
        return self.tokenizer.decode(self._unordered(tokens))

    def arrange(self, values: Tensor) -> Tensor:
        return self.tokenizer.arrange(self._unordered(values))

    def _unordered(self, values: Tensor) -> Tensor:
        return self._take_pixels(values, self._order(values).argsort())

    def _take_pixels(self, values: Tensor, pixels: Tensor) -> Tensor:
        return values.unflatten(-1, (-1, self.tokens_per_pixel))[:, pixels].flatten(1)

    def _order(self, values: Tensor) -> Tensor:
        key = (self.resolution(values.shape[-1]), values.device)
        if key not in self._on_device:
            self._on_device[key] = order(self.order_name, key[0], self.seed).to(values.device)
        return self._on_device[key]

    def state_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "inner": self.tokenizer.state_dict(), "order": self.order_name, "seed": self.seed}


def with_order(tokenizer: Tokenizer, name: str, seed: int = 0) -> Tokenizer:
    """The tokenizer with its pixels in the order `name`; itself for raster order."""
    return tokenizer if name == RASTER else Ordered(tokenizer, name, seed)


def palette_of(tokenizer: Tokenizer) -> Palette | None:
    """The palette that a tokenizer uses, in whatever order; None if it has none."""
    if isinstance(tokenizer, Ordered):
        return palette_of(tokenizer.tokenizer)
    return tokenizer if isinstance(tokenizer, Palette) else None
