"""Counting colours: every pixel of a data set in 2^24 counters, however many images there are."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


def colour_codes(pixels: NDArray[np.uint8]) -> NDArray[np.int32]:
    """R * 65536 + g * 256 + b of uint8 pixels (..., 3)."""
    red, green, blue = np.moveaxis(pixels.astype(np.int32), -1, 0)
    return (red << 16) | (green << 8) | blue


def count_colours(chunks: Iterable[NDArray[np.uint8]]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Distinct colours (n, 3), by rising code, and how often each occurs (n,), over chunks of pixels (..., 3)."""
    counts = np.zeros(2**24, np.int64)
    for chunk in chunks:
        counts += np.bincount(colour_codes(chunk).ravel(), minlength=2**24)
    codes = np.flatnonzero(counts)
    colours = np.stack([codes >> 16, codes >> 8 & 255, codes & 255], axis=-1).astype(np.uint8)
    return colours, counts[codes]
