"""Nested dicts, such as a configuration: their values by dotted keys."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted keys of all single values, with these; an empty dict is a single value."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def value_at(values: Any, path: Iterable[str]) -> Any:
    """The value below these keys, one after another; None if there is none."""
    for key in path:
        values = values.get(key) if isinstance(values, Mapping) else None
    return values
