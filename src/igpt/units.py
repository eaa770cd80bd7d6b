"""Numbers, times and counts as text."""

from __future__ import annotations

from decimal import Decimal

UNITS = (("years", 365.25 * 86400), ("days", 86400), ("hours", 3600), ("minutes", 60))


def time_text(seconds: float) -> str:
    """A duration in the unit that suits its length: 35 ms, 1.06 s, 3.2 minutes, 6.6 years."""
    for unit, length in UNITS:
        if seconds >= 2 * length:
            return f"{number_text(seconds / length, 2)} {unit}"
    for unit, length in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= 0.9995 * length:  # 1.00 when rounded to three digits
            return f"{number_text(seconds / length, 3)} {unit}"
    return f"{number_text(seconds * 1e6, 3)} µs"


def number_text(value: float, digits: int) -> str:
    """A number with at least `digits` significant digits, never in exponential notation: 0.0123, 1.06, 6,574."""
    short = float(f"{value:.{digits}g}")
    return f"{round(value):,}" if abs(short) >= 10 ** (digits - 1) else f"{Decimal(str(short)).normalize():f}"


def counted(n: int, noun: str) -> str:
    """A number of things: "1 job", "2 jobs"."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"
