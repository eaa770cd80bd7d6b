"""Configuration keys that have a new name, so that an old one gives a sentence instead of a guess."""

from __future__ import annotations

RENAMED_KEYS = {
    "draw_every": "sample_every",
}


def renamed(key: str, command: str) -> str | None:
    """A sentence that says what a command's `key` is called now; None if it was not renamed."""
    new = RENAMED_KEYS.get(key)
    return None if new is None else f"{key} is now called {new}"
