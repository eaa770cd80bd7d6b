"""Counting colors: all pixels of a data set in 2^24 counters."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def color_codes(pixels: NDArray[np.uint8]) -> NDArray[np.int32]:
    """The code r * 65536 + g * 256 + b of each uint8 pixel (..., 3)."""
    red, green, blue = np.moveaxis(pixels.astype(np.int32), -1, 0)
    return (red << 16) | (green << 8) | blue


def count_colors(
    chunks: Iterable[NDArray[np.uint8]], threads: int | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Distinct colors (n, 3), by ascending code, and how often each occurs (n,), in chunks of pixels (..., 3).

    Each of the `threads` (default: one per CPU core, at most four) takes the next chunk and adds to its own counters of
    128 MiB, so memory depends on neither the number of pixels nor the number of chunks.
    """
    feed, turn = iter(chunks), threading.Lock()

    def count() -> Tensor:
        counts, one = torch.zeros(2**24, dtype=torch.int64), torch.ones(1, dtype=torch.int64)
        while True:
            with turn:
                chunk = next(feed, None)
            if chunk is None:
                return counts
            codes = torch.from_numpy(color_codes(chunk).ravel())
            counts.index_add_(0, codes, one.expand(len(codes)))  # in place, and outside Python's lock

    threads = threads or min(4, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as pool:
        counts = sum(job.result() for job in [pool.submit(count) for _ in range(threads)])
    assert isinstance(counts, Tensor)
    codes = np.flatnonzero(counts.numpy())
    colors = np.stack([codes >> 16, codes >> 8 & 255, codes & 255], axis=-1).astype(np.uint8)
    return colors, counts.numpy()[codes]
