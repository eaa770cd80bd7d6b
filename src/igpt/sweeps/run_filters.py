"""The filters of igpt-runs: KEY=VALUE and KEY<VALUE, as text and as a rule about a value."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, TypeAlias

from igpt.errors import IgptError

Value: TypeAlias = str | float | bool | None  # also an int

COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "<=": lambda found, limit: found <= limit,
    ">=": lambda found, limit: found >= limit,
    "<": lambda found, limit: found < limit,
    ">": lambda found, limit: found > limit,
}
FILTER = re.compile(r"\s*([^=!<>\s]+)\s*(!=|<=|>=|=|<|>)\s*(.*?)\s*")


@dataclass(frozen=True)
class Filter:
    """`operator` is =, !=, <, <=, > or >=. Texts are equal to patterns with * and ?; only numbers are compared by size.
    null is a value that is not there.
    """

    key: str
    operator: str
    text: str

    @property
    def value(self) -> Value:
        return value_of(self.text)

    def matches(self, found: Any) -> bool:
        if self.operator in COMPARISONS:
            return is_number(found) and is_number(self.value) and COMPARISONS[self.operator](found, self.value)  # type: ignore[arg-type]
        return self._equals(found) == (self.operator == "=")

    def _equals(self, found: Any) -> bool:
        if isinstance(self.value, str) or (isinstance(found, str) and self.value is not None):
            return found is not None and fnmatchcase(str(found), self.text)
        same_kind = isinstance(found, bool) == isinstance(self.value, bool)
        return bool(found == self.value) and same_kind


def parse_filter(text: str) -> Filter:
    """The filter that a text describes; :class:`IgptError` if it describes none."""
    parts = FILTER.fullmatch(text)
    if parts is None:
        raise IgptError(f"where has '{text}', which is no filter; write KEY=VALUE, or one of !=, <, <=, > and >=.")
    key, operator, value = parts.groups()
    if operator in COMPARISONS and not is_number(value_of(value)):
        raise IgptError(f"where has '{text}', which compares with no number; write a number after {operator}.")
    return Filter(key, operator, value)


def value_of(text: str) -> Value:
    """The value that is written in a filter: null, true, false, a number, or text."""
    words: dict[str, Value] = {"null": None, "true": True, "false": False}
    if text in words:
        return words[text]
    try:
        return float(text)
    except ValueError:
        return text


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
