"""What all blocks see of a forward pass, beside the residual stream."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from igpt.model.rotary import Rotation


@dataclass
class Shared:
    """One pass over t positions."""

    at: slice | Tensor  # the positions, as an index of any table with a row per position
    rotation: Rotation | None = None  # of queries and keys
    token_values: Tensor | None = None  # of the value embedding (B, h, t, d)
    first_values: Tensor | None = None  # of the first block (B, h, t, d), which sets them if others need them
