"""The rank of this process, without importing torch or Lightning."""

from __future__ import annotations

import os

OTHER_RANKS = ("LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")  # set by launchers that do not set RANK


def started_processes() -> int:
    """The number of processes that torchrun, Lightning or srun started for this command; 1 if none of them did."""
    return int(os.environ.get("WORLD_SIZE") or os.environ.get("SLURM_STEP_NUM_TASKS") or 1)


def is_main_process() -> bool:
    """Whether this is the process of rank 0, or the only process."""
    if "RANK" in os.environ:
        return os.environ["RANK"] == "0"
    return all(os.environ.get(name, "0") == "0" for name in OTHER_RANKS)
