"""Checkpoints that are never half-written."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from igpt.checkpoint import Checkpoint, Description, read_checkpoint, with_description
from igpt.errors import IgptError
from igpt.files import atomic_path


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, waits for the disk, and renames. Lightning's own writes into the system's folder for
    temporary files, from where moving to another file system is a copy that can be interrupted.

    Each file has the `description` of the model. The checkpoint that a run is `resumed` from was read already, and is
    given to Lightning as it is.
    """

    def __init__(self, description: Description, resumed: Checkpoint | None = None) -> None:
        self.description = description
        self.resumed = resumed

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Raises :class:`IgptError` if the disk is full; the file that was at `path` is unchanged then."""
        try:
            with atomic_path(Path(path)) as temporary, open(temporary, "wb") as file:
                torch.save(with_description(checkpoint, self.description), file)
                file.flush()
                os.fsync(file.fileno())
        except (OSError, RuntimeError) as error:
            if not _disk_is_full(error):
                raise
            raise IgptError(
                f"The disk of {Path(path).parent} is full, so step {checkpoint['global_step']} could not be saved; the "
                "checkpoint before it is whole. Make room there and resume with run=RUN."
            ) from None

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Raises :class:`IgptError` if a bit of the file is not what was written."""
        if self.resumed is not None and Path(path) == self.resumed.path:
            return self.resumed.take()
        return read_checkpoint(Path(path)).take()


def _disk_is_full(error: BaseException | None) -> bool:
    """Whether that is the reason of an error; torch raises an error of its own while it handles the system's."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return True
        error = error.__context__
    return False
