"""Packed data: each split of a source as memory-mapped arrays in the cache."""

from igpt.data.packed.images import PackedImages, open_packed
from igpt.data.packed.layout import cache_key, packed_folder
from igpt.data.packed.packing import pack

__all__ = ["PackedImages", "cache_key", "open_packed", "pack", "packed_folder"]
