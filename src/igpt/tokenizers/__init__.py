"""Tokenizers turn pixels into tokens and back; an order is the sequence in which pixels are visited."""

from __future__ import annotations

from typing import Any

from igpt.stored_names import class_of, name_of
from igpt.tokenizers.color_palette import Palette
from igpt.tokenizers.levels import RGB, Gray
from igpt.tokenizers.ordered import Ordered, palette_of, with_order
from igpt.tokenizers.tokenizer import Tokenizer

__all__ = [
    "RGB", "Gray", "Ordered", "Palette", "Tokenizer", "palette_of", "tokenizer_from_state", "tokenizer_state",
    "with_order",
]  # fmt: skip

TOKENIZERS: dict[str, type[Tokenizer]] = {"palette": Palette, "rgb": RGB, "gray": Gray, "ordered": Ordered}


def tokenizer_state(tokenizer: Tokenizer) -> dict[str, Any]:
    """What a checkpoint says of a tokenizer: its name, and its state."""
    return {"name": name_of(type(tokenizer), TOKENIZERS), **tokenizer.state()}


def tokenizer_from_state(state: dict[str, Any]) -> Tokenizer:
    """The tokenizer that a checkpoint describes."""
    values = {name: value for name, value in state.items() if name != "name"}
    return class_of(state["name"], TOKENIZERS, Tokenizer).from_state(values)  # type: ignore[type-abstract]
