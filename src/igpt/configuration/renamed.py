"""Configuration keys that have a new name, so that an old one gives a sentence instead of a guess."""

from __future__ import annotations

RENAMED_KEYS = {
    "callbacks.draw": "callbacks.sample",
    "draw_every": "sample_every",
}


def renamed(key: str, command: str) -> str | None:
    """A sentence that says what a command's `key` is called now; None if it was not renamed."""
    for old, new in RENAMED_KEYS.items():
        if f"{key}.".startswith(f"{old}."):
            return f"{key} is now called {new}{key.removeprefix(old)}"
    return None
