"""Which of several processes this is, before Lightning or torch are there to ask."""

from __future__ import annotations

import os

OTHERS = ("LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")  # what launchers tell that give no RANK


def is_main_process() -> bool:
    """Whether this is the process of rank 0; so is one that was started alone."""
    if "RANK" in os.environ:
        return os.environ["RANK"] == "0"
    return all(os.environ.get(name, "0") == "0" for name in OTHERS)
