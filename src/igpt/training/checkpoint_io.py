"""Checkpoints that are never half-written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from igpt.files import atomic_path


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target and renames. Lightning's own goes through the system's folder for temporary files,
    from where moving to another file system is a copy that can be cut off.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        with atomic_path(Path(path)) as temporary:
            torch.save(checkpoint, temporary)
