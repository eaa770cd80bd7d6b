"""Numbers and times as a person reads them."""

from __future__ import annotations

UNITS = (("years", 365.25 * 86400), ("days", 86400), ("hours", 3600), ("minutes", 60))


def time_text(seconds: float) -> str:
    """A time of any length in a unit that leaves a number one can picture: 35 ms, 1.06 s, 3.2 minutes, 6.6 years."""
    for unit, length in UNITS:
        if seconds >= 2 * length:
            return f"{number_text(seconds / length, 2)} {unit}"
    for unit, length in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= 0.9995 * length:  # which is 1.00 of it in three digits
            return f"{number_text(seconds / length, 3)} {unit}"
    return f"{number_text(seconds * 1e6, 3)} µs"


def number_text(value: float, digits: int) -> str:
    """A number in so many significant digits, in full: 0.0123, 1.06, 6,570."""
    short = float(f"{value:.{digits}g}")
    return f"{round(value):,}" if abs(short) >= 10 ** (digits - 1) else f"{short:.{digits}g}"
