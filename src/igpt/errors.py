"""The exception whose message is meant for users, and what its sentences are made of."""

from __future__ import annotations

from collections.abc import Sequence


class IgptError(Exception):
    """Bad input, or a state of the machine that igpt foresees: one sentence says what is wrong, where, and what to do.

    The commands print it without a traceback and exit with status 1.
    """


class RunTakenError(IgptError):
    """The run directory contains a run with other settings, or another process uses it; nothing in it was changed."""


def some_of(names: Sequence[str], n: int = 3) -> str:
    """The first n names and the number of all: "a, b, c, ... (120)"."""
    shown = ", ".join(names[:n])
    return shown if len(names) <= n else f"{shown}, ... ({len(names)})"


def in_one_line(error: object) -> str:
    """The whole message of an error in one line; its representation if it has no message."""
    return " ".join(str(error).split()) or repr(error)


def reason_of(error: object) -> str:
    """The first line of an error's message, as a part of a sentence; its type if it has no message."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")
