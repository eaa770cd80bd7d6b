"""What a person may have meant by a key that does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any


def did_you_mean(name: str, config: Any) -> str:
    """The words "; did you mean KEY", if a key of the (plain) configuration resembles the dotted `name`."""
    closest = resembling(name, sorted(set(dotted_keys(config)) - {name}))
    return f"; did you mean {closest}" if closest else ""


def resembling(name: str, known: list[str]) -> str | None:
    """The known key nearest to `name`: spelt nearly so, or with nearly the same last part in another place."""
    whole = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
    if whole:
        return whole[0]
    last_parts: dict[str, str] = {}
    for key in sorted(known, key=lambda key: key.count("."), reverse=True):
        last_parts[key.rsplit(".", 1)[-1]] = key  # of several the one least deep
    last = difflib.get_close_matches(name.rsplit(".", 1)[-1], last_parts, n=1, cutoff=0.75)
    return last_parts[last[0]] if last else None


def dotted_keys(config: Any, prefix: str = "") -> Iterator[str]:
    """The dotted names of all keys of nested dicts."""
    if isinstance(config, dict):
        for key, value in config.items():
            yield f"{prefix}{key}"
            yield from dotted_keys(value, f"{prefix}{key}.")
