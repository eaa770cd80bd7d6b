"""Tokenizers: tables that turn pixels into tokens and back."""

from __future__ import annotations

from typing import Any

from igpt.errors import IgptError
from igpt.tokenizers.base import Tokenizer
from igpt.tokenizers.palette import Palette

__all__ = ["Palette", "Tokenizer", "from_state"]


def from_state(state: dict[str, Any]) -> Tokenizer:
    """The tokenizer that a checkpoint carries."""
    if state.get("kind") == Palette.kind:
        return Palette.from_state(state)
    raise IgptError(f"The checkpoint's tokenizer is of kind '{state.get('kind')}', which this version does not know.")
