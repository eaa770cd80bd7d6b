"""What all blocks see of a forward pass, beside the residual stream."""

from __future__ import annotations

from torch import Tensor

from igpt.model.rotary import Rotation


class Shared:
    """One pass over t positions. No dataclass, since FSDP would give each block a copy, and the first block writes."""

    def __init__(self, at: slice | Tensor, rotation: Rotation | None, token_values: Tensor | None) -> None:
        self.at = at  # the positions, as an index of any table with a row per position
        self.rotation = rotation  # of queries and keys
        self.token_values = token_values  # of the value embedding (B, h, t, d)
        self.first_values: Tensor | None = None  # of the first block (B, h, t, d), which sets them if others need them
