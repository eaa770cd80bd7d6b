"""A tokenizer whose sequence visits the cells of an image in another order than row by row."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from igpt.tokenizers.color_palette import Palette
from igpt.tokenizers.orders import RANDOM, RASTER, order, require_order
from igpt.tokenizers.tokenizer import Tokenizer


class Ordered(Tokenizer):
    """`tokenizer` with its cells in the order `order_name` (see :func:`igpt.tokenizers.orders.order`).

    The tokens of a cell stay next to each other.
    """

    def __init__(self, tokenizer: Tokenizer, order_name: str, seed: int = 0) -> None:
        require_order(order_name)
        self.tokenizer = tokenizer
        self.order_name = order_name
        self.seed = seed
        self.cell = tokenizer.cell
        self.tokens_per_cell = tokenizer.tokens_per_cell
        self.lossless = tokenizer.lossless
        self._on_device: dict[tuple[int, torch.device], Tensor] = {}

    def __repr__(self) -> str:
        return f"Ordered({self.tokenizer!r}, {self.order_name!r}, seed={self.seed})"

    @property
    def vocab_size(self) -> int:
        return self.tokenizer.vocab_size

    @property
    def fingerprint(self) -> str:
        seed = f"-{self.seed}" if self.order_name == RANDOM else ""
        return f"{self.tokenizer.fingerprint}-{self.order_name}{seed}"

    def encode(self, images: Tensor) -> Tensor:
        """Tokens (N, T) int64 of square uint8 images (N, side, side, 3)."""
        tokens = self.tokenizer.encode(images)
        return self._take_cells(tokens, self._order(tokens))

    def decode(self, tokens: Tensor) -> Tensor:
        return self.tokenizer.decode(self._in_raster_order(tokens))

    def arrange(self, values: Tensor) -> Tensor:
        return self.tokenizer.arrange(self._in_raster_order(values))

    def n_given(self, share: float, n_tokens: int) -> int:
        """Tokens in the first `share` of an image, rounded to whole cells, since an order need not have rows."""
        return round(share * (n_tokens // self.tokens_per_cell)) * self.tokens_per_cell

    def _in_raster_order(self, values: Tensor) -> Tensor:
        return self._take_cells(values, self._order(values).argsort())

    def _take_cells(self, values: Tensor, cells: Tensor) -> Tensor:
        """The values (N, T) of the cells (T / tokens_per_cell,), in their order."""
        return values.unflatten(-1, (-1, self.tokens_per_cell))[:, cells].flatten(1)

    def _order(self, values: Tensor) -> Tensor:
        """Raster index of the cell at each place of the sequence, for values (N, T)."""
        side = self.resolution(values.shape[-1]) // self.cell
        key = (side, values.device)
        if key not in self._on_device:
            self._on_device[key] = order(self.order_name, side, self.seed).to(values.device)
        return self._on_device[key]

    def state(self) -> dict[str, Any]:
        from igpt.tokenizers import tokenizer_state

        return {"tokenizer": tokenizer_state(self.tokenizer), "order_name": self.order_name, "seed": self.seed}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Ordered:
        from igpt.tokenizers import tokenizer_from_state

        return cls(tokenizer_from_state(state["tokenizer"]), state["order_name"], state["seed"])


def with_order(tokenizer: Tokenizer, name: str, seed: int = 0) -> Tokenizer:
    """The tokenizer with its cells in the order `name`; itself for raster order."""
    return tokenizer if name == RASTER else Ordered(tokenizer, name, seed)


def palette_of(tokenizer: Tokenizer) -> Palette | None:
    """The palette that a tokenizer uses, in whatever order; None if it has none."""
    if isinstance(tokenizer, Ordered):
        return palette_of(tokenizer.tokenizer)
    return tokenizer if isinstance(tokenizer, Palette) else None
