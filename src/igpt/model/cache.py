"""Keys and values of the positions already seen, so that drawing a picture costs one pass and not one a pixel."""

from __future__ import annotations

from torch import Tensor


class KVCache:
    """Preallocated keys and values, (2, L, B, h, T, d), filled up to `length` positions."""

    def __init__(self, storage: Tensor) -> None:
        self.storage = storage
        self.length = 0

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write new keys and values (B, h, t, d) of one layer behind the `length` known ones; return all of them.

        The caller moves `length` on, once all layers have written.
        """
        if self.length > 0 and k.shape[2] > 1:
            raise ValueError("a cache that is not empty takes one position at a time")
        end = self.length + k.shape[2]
        keys, values = self.storage[0, layer], self.storage[1, layer]
        keys[:, :, self.length : end] = k
        values[:, :, self.length : end] = v
        return keys[:, :, :end], values[:, :, :end]
