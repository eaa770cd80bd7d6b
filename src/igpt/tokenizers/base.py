"""What every tokenizer can do."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor


class Tokenizer(Protocol):
    """Images to tokens and back; immutable, so that its fingerprint stands for it."""

    @property
    def vocab_size(self) -> int:
        """Number of different tokens."""

    @property
    def fingerprint(self) -> str:
        """A short hash; equal for tokenizers that give equal tokens."""

    def n_tokens(self, resolution: int) -> int:
        """Tokens of one square image with `resolution` pixels a side."""

    def encode(self, images: Tensor) -> Tensor:
        """Tokens (N, T) int64 of uint8 images (N, H, W, 3), in raster order, on the device of the images."""

    def decode(self, tokens: Tensor) -> Tensor:
        """uint8 images (N, H, W, 3), square, of tokens (N, T), on the device of the tokens."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values from which :func:`igpt.tokenizers.from_state` makes an equal tokenizer."""
