"""Reads what W&B wrote of an offline run: a log of records, each a protobuf message, in blocks as of LevelDB."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2 as messages

BLOCK, MAGIC = 32768, 7  # bytes
FULL, LAST = 1, 4  # the kinds of chunks that complete a record


@dataclass
class OfflineRun:
    """One part of a run, which its process wrote."""

    folder: Path
    init: Any = None  # what wandb.init was given
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    defined: dict[str, Any] = field(default_factory=dict)  # metrics by their names
    artifacts: list[Any] = field(default_factory=list)

    def values(self, name: str) -> list[tuple[int, Any]]:
        """The step of each value of a metric, and the value."""
        return [(row["trainer/global_step"], row[name]) for row in self.history if name in row]

    def file(self, logged: dict[str, Any]) -> Path:
        """The file of a logged image or table."""
        return self.folder / "files" / logged["path"]


def read_offline_run(folder: Path) -> OfflineRun:
    """The part of a run in one of the folders wandb/offline-run-*."""
    run = OfflineRun(folder)
    (file,) = folder.glob("*.wandb")
    for record in records(file.read_bytes()):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run.init = record.run
            set_items(run.config, record.run.config.update)
        elif kind == "config":
            set_items(run.config, record.config.update)
        elif kind == "summary":
            set_items(run.summary, record.summary.update)
        elif kind == "history":
            run.history.append({})
            set_items(run.history[-1], record.history.item)
        elif kind == "metric":
            run.defined[record.metric.name or record.metric.glob_name] = record.metric
        elif kind == "artifact":
            run.artifacts.append(record.artifact)
    return run


def set_items(values: dict[str, Any], items: Any) -> None:
    for item in items:
        *path, last = item.nested_key or [item.key]
        inner = values
        for key in path:
            if not isinstance(inner.get(key), dict):
                inner[key] = {}
            inner = inner[key]
        inner[last] = json.loads(item.value_json)


def records(content: bytes) -> Iterator[Any]:
    """Records are cut into chunks, none of which crosses the end of a block; each begins with checksum, size, kind."""
    position, collected = MAGIC, b""
    while position + 7 <= len(content):
        if (left := BLOCK - position % BLOCK) < 7:
            position += left
            continue
        _, size, kind = struct.unpack_from("<IHB", content, position)
        collected += content[position + 7 : position + 7 + size]
        position += 7 + size
        if kind in (FULL, LAST):
            yield messages.Record.FromString(collected)
            collected = b""
