"""The state of a job, from SLURM."""

from __future__ import annotations

import re
import subprocess

FORGOTTEN = "FORGOTTEN"  # our name for a job that ended so long ago that SLURM has forgotten it
ENDED = (
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT",
    FORGOTTEN,
)  # fmt: skip


def job_state(job: str) -> str | None:
    """The state of a job (RUNNING, CANCELLED, ...); None if SLURM does not answer."""
    command = ["scontrol", "show", "job", "--oneliner", job]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if "Invalid job id" in answer.stderr:
        return FORGOTTEN
    found = re.search(r"\bJobState=(\w+)", answer.stdout)
    return found[1] if found else None
