"""Keys and values of the positions already seen, so that drawing a picture costs one pass and not one a pixel."""

from __future__ import annotations

import torch
from torch import Tensor

from igpt.model.config import TransformerConfig


def cache_bytes(config: TransformerConfig, batch_size: int, dtype: torch.dtype = torch.float32) -> int:
    """Bytes of the keys and values of `batch_size` sequences of full length."""
    return 2 * config.n_layer * batch_size * config.n_positions * config.n_embd * dtype.itemsize


class KVCache:
    """Preallocated keys and values, (2, L, B, h, T, d), filled up to `length` positions."""

    visible: Tensor | None = None  # which of the keys that `append` returns a query may look at; None: all

    def __init__(self, storage: Tensor) -> None:
        self.storage = storage
        self.length = 0

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write new keys and values (B, h, t, d) of one layer behind the `length` known ones; return all of them.

        They are views of the storage, so a step reads what is known and nothing else. The caller moves `length` on,
        once all layers have written.
        """
        if self.length > 0 and k.shape[2] > 1:
            raise ValueError("a cache that is not empty takes one position at a time")
        end = self.length + k.shape[2]
        keys, values = self.storage[0, layer], self.storage[1, layer]
        keys[:, :, self.length : end] = k
        values[:, :, self.length : end] = v
        return keys[:, :, :end], values[:, :, :end]

    def repeat(self, n: int) -> KVCache:
        """A new cache with each sequence n times, copies next to each other."""
        both, layers, batch, *rest = self.storage.shape
        cache = KVCache(self.storage.new_zeros(both, layers, batch * n, *rest))
        cache.length = self.length
        known = slice(self.length)
        copies = cache.storage.unflatten(2, (batch, n))
        copies[..., known, :] = self.storage[:, :, :, None, :, known]
        return cache


class FixedCache(KVCache):
    """The same storage with the length as a tensor (1,): every step returns all T positions, with `visible` (1, T)."""

    def __init__(self, storage: Tensor, position: Tensor) -> None:
        super().__init__(storage)
        self.position = position
        self.visible = torch.arange(storage.shape[4], device=storage.device)[None] <= position

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write one new position (B, h, 1, d) of a layer; return all positions, seen and not yet seen."""
        keys, values = self.storage[0, layer], self.storage[1, layer]
        keys.index_copy_(2, self.position, k.to(keys.dtype))
        values.index_copy_(2, self.position, v.to(values.dtype))
        return keys, values
