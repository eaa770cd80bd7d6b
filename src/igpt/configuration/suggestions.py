"""Suggestions for a key that does not exist: the most similar existing one."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any


def did_you_mean(name: str, config: Any) -> str:
    """The text "; did you mean KEY" if a key of the (plain) configuration is similar to the dotted `name`; else ""."""
    closest = resembling(name, sorted(set(dotted_keys(config)) - {name}))
    return f"; did you mean {closest}" if closest else ""


def resembling(name: str, known: list[str]) -> str | None:
    """The known key most similar to `name`, or to its last part, in spelling; None if none is similar."""
    whole = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
    if whole:
        return whole[0]
    last_parts: dict[str, str] = {}
    for key in sorted(known, key=lambda key: key.count("."), reverse=True):
        last_parts[key.rsplit(".", 1)[-1]] = key  # of several, the one with the fewest parts
    last = difflib.get_close_matches(name.rsplit(".", 1)[-1], last_parts, n=1, cutoff=0.75)
    return last_parts[last[0]] if last else None


def dotted_keys(config: Any, prefix: str = "") -> Iterator[str]:
    """The dotted names of all keys of nested dicts."""
    if isinstance(config, dict):
        for key, value in config.items():
            yield f"{prefix}{key}"
            yield from dotted_keys(value, f"{prefix}{key}.")
