"""Packed data: each split of a source as memory-mapped arrays in the cache."""

from igpt.data.packed.images import PackedImages, PackedPhotos, open_packed, open_photos
from igpt.data.packed.layout import cache_key, packed_folder
from igpt.data.packed.packing import pack

__all__ = ["PackedImages", "PackedPhotos", "cache_key", "open_packed", "open_photos", "pack", "packed_folder"]
