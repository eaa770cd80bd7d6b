"""Keys and values of the positions already seen, so that each new position costs one pass over itself alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from igpt.model.config import TransformerConfig


def cache_bytes(config: TransformerConfig, batch_size: int, dtype: torch.dtype = torch.float32) -> int:
    """Bytes of the keys and values of `batch_size` sequences of full length."""
    return 2 * config.n_layer * batch_size * config.n_positions * config.n_embd * dtype.itemsize


@dataclass
class LayerCache:
    """One layer's part of a cache, for the t new positions of one forward pass."""

    keys: Tensor  # (B, h, n, d), where the new ones have their place
    values: Tensor  # (B, h, n, d)
    at: slice | Tensor  # the new positions, as an index of any table with a row per position
    mask: Tensor | None  # (t, n), which keys each query looks at; None: the causal mask if the cache was empty, or all

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write the new keys and values (B, h, t, d); return those that a query may look at, (B, h, n, d)."""
        self.keys[:, :, self.at] = k.to(self.keys.dtype)
        self.values[:, :, self.at] = v.to(self.values.dtype)
        return self.keys, self.values


class KVCache:
    """Preallocated keys and values, (2 L, B, h, T, d), filled up to `length` positions.

    The keys of layer l are at 2 l, its values at 2 l + 1.
    """

    def __init__(self, storage: Tensor, length: int = 0) -> None:
        self.storage = storage
        self.length = length

    @property
    def is_empty(self) -> bool:
        return self.length == 0

    def extend(self, t: int) -> list[LayerCache]:
        """Add t positions, whose keys and values each layer has to write."""
        first, self.length = self.length, self.length + t
        at, mask = slice(first, self.length), None
        if first > 0 and t > 1:
            mask = torch.ones(t, self.length, dtype=torch.bool, device=self.storage.device).tril(first)
        known = self.storage[:, :, :, : self.length].unbind()
        return [LayerCache(*pair, at, mask) for pair in zip(known[::2], known[1::2], strict=True)]

    def split(self, n: int) -> list[KVCache]:
        """The same keys and values as n caches of some sequences each, which grow independently."""
        return [KVCache(storage, self.length) for storage in self.storage.tensor_split(n, dim=1)]

    def repeat(self, n: int) -> KVCache:
        """A new cache with each sequence n times, copies next to each other."""
        both, batch, *rest = self.storage.shape
        cache = KVCache(self.storage.new_zeros(both, batch * n, *rest), self.length)
        known = slice(self.length)
        copies = cache.storage.unflatten(1, (batch, n))
        copies[..., known, :] = self.storage[:, :, None, :, known]
        return cache


class FixedCache:
    """The storage of a cache with its length as a tensor (1,), on which no shape depends.

    For torch.compile and CUDA graphs, which see the same step every time. The price is attention over all T keys, of
    which a mask hides those to come.
    """

    is_empty = False

    def __init__(self, storage: Tensor, length: Tensor) -> None:
        # Views that are made outside of the compiled step are written in place. A view that the step itself made would
        # cost a copy of the whole storage.
        self.layers = storage.unbind()  # 2 L views (B, h, T, d)
        self.length = length

    def extend(self, t: int) -> list[LayerCache]:
        """Add one position (t = 1). The owner of `length` increases it."""
        at = self.length
        keys, values = self.layers[::2], self.layers[1::2]
        mask = torch.arange(keys[0].shape[2], device=at.device)[None] <= at  # (1, T)
        return [LayerCache(*pair, at, mask) for pair in zip(keys, values, strict=True)]
