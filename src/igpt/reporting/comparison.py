"""Tables that compare runs: one row per value, one column per run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from igpt.files import printable
from igpt.nested import leaves


@dataclass(frozen=True)
class Comparison:
    """The values of a key in each run, as text; None where a run has no such key."""

    key: str
    values: Sequence[str | None]

    @property
    def differs(self) -> bool:
        return len(set(self.values)) > 1


def compared(runs: Sequence[Mapping[str, Any]]) -> list[Comparison]:
    """The keys of nested dicts, dotted, with their values in each; in the order of their first appearance."""
    flat = [{printable(key): value for key, value in leaves(run)} for run in runs]
    keys = dict.fromkeys(key for values in flat for key in values)
    return [Comparison(key, [value_text(values[key]) if key in values else None for values in flat]) for key in keys]


def value_text(value: Any) -> str:
    """A value as in a configuration: texts as they are, floats of results with six digits."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, float) and value != float(f"{value:.6g}"):
        return f"{value:.6g}"
    return printable(json.dumps(value, ensure_ascii=False, default=str))
