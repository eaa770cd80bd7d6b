"""TensorFlow checkpoints ("tensor bundles"), read without TensorFlow.

The index file says for each tensor in which shard it is, and where. It is a table in the format of LevelDB: blocks of
sorted entries, then the index block, whose values are the places of the others, then a footer with its place. A key is
stored without the beginning that it shares with the key before it. Values are Protocol Buffers messages. Blocks and
tensors have checksums.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from igpt.errors import IgptError, some_of

FOOTER, MAGIC = 48, (0xDB4775248B80FB57).to_bytes(8, "little")
TRAILER = 5  # bytes after a block: the kind of its compression, and its checksum
DTYPES = {1: torch.float32, 2: torch.float64, 14: torch.bfloat16, 19: torch.float16}  # of TensorFlow's DataType


class Entry(NamedTuple):
    """Where a tensor is."""

    dtype: torch.dtype | None  # None: not a floating-point type
    shape: tuple[int, ...]
    shard: int
    offset: int  # bytes
    size: int  # bytes
    checksum: int


class TensorBundle:
    """A checkpoint of TensorFlow: PREFIX.index, and PREFIX.data-00000-of-00032 and so on.

    Raises :class:`IgptError` if the index is missing, damaged, or another kind of file.
    """

    def __init__(self, index: Path) -> None:
        self.index = index
        try:
            content = index.read_bytes()
        except OSError as error:
            raise IgptError(f"{index} cannot be read ({error.strerror}); get it again, beside its shards.") from None
        if len(content) < FOOTER or content[-8:] != MAGIC:
            raise IgptError(f"{index} is not the index of a TensorFlow checkpoint, or it is truncated; get it again.")
        try:
            messages = dict(_table(content))
            header = _fields(messages.pop(b""))
            self.n_shards, big_endian = header.get(1, 0), header.get(2, 0)
            self.entries = {key.decode(errors="backslashreplace"): _entry(message) for key, message in messages.items()}
        except (IndexError, KeyError, TypeError, ValueError) as error:
            raise IgptError(f"{index} is damaged ({error}); get it again.") from None
        if big_endian:
            raise IgptError(f"{index} was written on a big-endian machine, which igpt does not read.")

    @property
    def shards(self) -> list[Path]:
        """The files with the tensors."""
        prefix = self.index.with_suffix("")
        return [Path(f"{prefix}.data-{i:05d}-of-{self.n_shards:05d}") for i in range(self.n_shards)]

    def read(self, name: str) -> Tensor:
        """A tensor whose memory is the file's, which the system reads and frees as it likes; changes stay in memory.

        Raises :class:`IgptError` if the shard is missing or damaged, or the tensor of another type than floating point.
        """
        entry = self.entries[name]
        count = prod(entry.shape)
        if entry.dtype is None or entry.size != count * entry.dtype.itemsize:  # of a tensor in slices, the size is 0
            raise IgptError(
                f"{self.index} has {name} in slices, or in a type that igpt does not read; igpt reads floating-point "
                "tensors in one piece."
            )
        shard, content = self.shards[entry.shard], self._mapped[entry.shard]
        end = entry.offset + entry.size
        if len(content) < end:
            raise IgptError(f"{shard} is truncated: it has {len(content)} bytes of at least {end}; get it again.")
        if masked_crc(memoryview(content)[entry.offset : end]) != entry.checksum:
            raise IgptError(f"{shard} is damaged: {name} does not match its checksum; get it again.")
        return torch.frombuffer(content, dtype=entry.dtype, count=count, offset=entry.offset).view(entry.shape)

    @cached_property
    def _mapped(self) -> list[mmap.mmap | bytes]:
        """The content of each shard."""
        if missing := [path.name for path in self.shards if not path.exists()]:
            raise IgptError(f"{self.index.parent} lacks {some_of(missing)}, shards of {self.index.name}; get them.")
        return [_map(path) for path in self.shards]


def masked_crc(data: Any) -> int:
    """The checksum (CRC-32C) of bytes, in the form in which LevelDB and TensorFlow store it."""
    import google_crc32c

    crc = google_crc32c.value(np.frombuffer(data, np.uint8))  # it takes arrays, but no views of mapped files
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _map(path: Path) -> mmap.mmap | bytes:
    with path.open("rb") as file:
        is_empty = path.stat().st_size == 0  # which cannot be mapped
        return b"" if is_empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)


def _table(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The entries of a table of LevelDB."""
    footer = content[-FOOTER:]
    _, at = _place(footer, 0)  # of a block with information about the table
    index, _ = _place(footer, at)
    for _, value in _block(content, index):
        place, _ = _place(value, 0)
        yield from _block(content, place)


def _place(data: bytes, at: int) -> tuple[slice, int]:
    """Where a block is, from an encoded pair of offset and size, and where the next value begins."""
    offset, at = _varint(data, at)
    size, at = _varint(data, at)
    return slice(offset, offset + size), at


def _block(content: bytes, place: slice) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a block."""
    block, trailer = content[place], content[place.stop : place.stop + TRAILER]
    if masked_crc(block + trailer[:1]) != int.from_bytes(trailer[1:], "little"):
        raise ValueError("a block does not match its checksum")
    if trailer[0]:
        raise ValueError("a block is compressed, which no version of TensorFlow since 1.2 does")
    n_restarts = int.from_bytes(block[-4:], "little")  # offsets of whole keys, for binary search
    key, at, end = b"", 0, len(block) - 4 * (n_restarts + 1)
    while at < end:
        shared, at = _varint(block, at)
        n_key, at = _varint(block, at)
        n_value, at = _varint(block, at)
        key = key[:shared] + block[at : at + n_key]
        yield key, block[at + n_key : at + n_key + n_value]
        at += n_key + n_value


def _entry(message: bytes) -> Entry:
    """A BundleEntryProto."""
    fields = _fields(message)
    shape = tuple(_fields(size).get(1, 0) for number, size in _all_fields(fields.get(2, b"")) if number == 2)
    place = (fields.get(number, 0) for number in (3, 4, 5, 6))
    return Entry(DTYPES.get(fields.get(1, 0)), shape, *place)


def _fields(message: bytes) -> dict[int, Any]:
    """The values of a Protocol Buffers message by their numbers, for messages without repeated fields."""
    return dict(_all_fields(message))


def _all_fields(message: bytes) -> Iterator[tuple[int, Any]]:
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield number, value
        elif kind == 2:  # bytes
            size, at = _varint(message, at)
            yield number, message[at : at + size]
            at += size
        elif kind == 5:
            yield number, int.from_bytes(message[at : at + 4], "little")
            at += 4
        else:
            raise ValueError(f"a message has a field of kind {kind}")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """An integer of seven bits per byte, and where the next value begins."""
    value = shift = 0
    while data[at] >= 128:
        value |= (data[at] - 128) << shift
        at, shift = at + 1, shift + 7
    return value | data[at] << shift, at + 1
