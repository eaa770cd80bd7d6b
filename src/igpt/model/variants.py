"""Parts of the network that the paper does not have."""

from __future__ import annotations

from torch import Tensor, nn

from igpt.model.config import TransformerConfig


class NoPositions(nn.Module):
    """Nothing is added to the embeddings, for models that have rotary positions."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()

    def forward(self, x: Tensor, at: slice | Tensor) -> Tensor:
        return x
