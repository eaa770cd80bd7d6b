"""Keys and values of the positions already seen, so that drawing a picture costs one pass and not one a pixel."""

from __future__ import annotations

import torch
from torch import Tensor

from igpt.model.config import TransformerConfig


def cache_bytes(config: TransformerConfig, batch_size: int, dtype: torch.dtype = torch.float32) -> int:
    """Bytes of the keys and values of `batch_size` sequences of full length."""
    return 2 * config.n_layer * batch_size * config.n_positions * config.n_embd * dtype.itemsize


class KVCache:
    """Preallocated keys and values, (2 L, B, h, T, d), filled up to `length` positions.

    The keys of layer l are at 2 l, its values at 2 l + 1.
    """

    visible: Tensor | None = None  # which of the keys that `append` returns a query may look at: all

    def __init__(self, storage: Tensor) -> None:
        self.storage = storage
        self.length = 0

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write the keys and values (B, h, t, d) of a prompt into one layer of the empty cache, and return them.

        The caller sets `length`, once all layers have written.
        """
        if self.length > 0:
            raise ValueError("a cache that is not empty takes one position at a time, by make_room")
        known = self.storage[2 * layer : 2 * layer + 2, :, :, : k.shape[2]]
        known[0], known[1] = k, v
        return known[0], known[1]

    def make_room(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Go on by one position: where its keys and values are to be written, 2 L views (B, h, 1, d), and what a query
        there looks at, 2 L views (B, h, length, d), the new ones among them.

        Two operations for all layers, since one position has little else to do.
        """
        self.length += 1
        known = self.storage[:, :, :, : self.length]
        return known[:, :, :, -1:].unbind(), known.unbind()

    def split(self, n: int) -> list[KVCache]:
        """The same keys and values as n caches of some sequences each, which grow apart."""
        parts = [KVCache(storage) for storage in self.storage.tensor_split(n, dim=1)]
        for part in parts:
            part.length = self.length
        return parts

    def repeat(self, n: int) -> KVCache:
        """A new cache with each sequence n times, copies next to each other."""
        both, batch, *rest = self.storage.shape
        cache = KVCache(self.storage.new_zeros(both, batch * n, *rest))
        cache.length = self.length
        known = slice(self.length)
        copies = cache.storage.unflatten(1, (batch, n))
        copies[..., known, :] = self.storage[:, :, None, :, known]
        return cache


class FixedCache:
    """The storage of a KVCache with the length as a tensor (1,), on which no shape depends: a step looks at all T
    positions, of which some are `visible` (1, T).
    """

    def __init__(self, storage: Tensor, position: Tensor) -> None:
        self.storage = storage
        self.position = position
        self.visible = torch.arange(storage.shape[3], device=storage.device)[None] <= position

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write one new position (B, h, 1, d) of a layer; return all positions, seen and not yet seen."""
        keys, values = self.storage[2 * layer], self.storage[2 * layer + 1]
        keys.index_copy_(2, self.position, k.to(keys.dtype))
        values.index_copy_(2, self.position, v.to(values.dtype))
        return keys, values
