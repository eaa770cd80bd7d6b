"""Tokenizers: tables that turn pixels into tokens and back, and the orders of the pixels."""

from __future__ import annotations

from typing import Any

from igpt.errors import IgptError
from igpt.tokenizers.color_palette import Palette
from igpt.tokenizers.levels import RGB, Gray
from igpt.tokenizers.ordered import Ordered, palette_of, with_order
from igpt.tokenizers.tokenizer import Tokenizer

__all__ = ["RGB", "Gray", "Ordered", "Palette", "Tokenizer", "from_state", "palette_of", "with_order"]


def from_state(state: dict[str, Any]) -> Tokenizer:
    """The tokenizer that a checkpoint carries."""
    match state.get("kind"):
        case Palette.kind:
            return Palette.from_state(state)
        case RGB.kind:
            return RGB()
        case Gray.kind:
            return Gray()
        case Ordered.kind:
            return Ordered(from_state(state["inner"]), state["order"], state["seed"])
    raise IgptError(f"The checkpoint's tokenizer is of kind '{state.get('kind')}', which this version does not know.")
