"""Event files for TensorBoard."""

from __future__ import annotations

from typing import Any

from pytorch_lightning.loggers import TensorBoardLogger


class TensorBoardTracker(TensorBoardLogger):
    """Writes to tensorboard/ in the run directory. A run that is resumed at `first_step` replaces what was logged of
    that step and later ones.
    """

    def __init__(self, run_dir: str, first_step: int | None = None, **writer: Any) -> None:
        super().__init__(run_dir, name="", version="tensorboard", purge_step=first_step, **writer)
