"""The one exception that a person is meant to read, and how its sentences name many things."""

from __future__ import annotations

from collections.abc import Sequence


class IgptError(Exception):
    """Bad input or a state of the machine that we foresaw: one sentence that says what is wrong, where, and what to do.

    The commands print it without a traceback and exit with status 1.
    """


class RunTakenError(IgptError):
    """The run directory holds a run with other settings, or another process works in it; nothing there was changed."""


def some_of(names: Sequence[str], n: int = 3) -> str:
    """The first few of many names, for a sentence: "a, b, c, ... (120)"."""
    shown = ", ".join(names[:n])
    return shown if len(names) <= n else f"{shown}, ... ({len(names)})"
