"""environment.json: for each start of training, the time, the code, the packages and the device."""

from __future__ import annotations

import json
import platform
import re
import socket
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from igpt.code_commit import code_commit
from igpt.files import atomic_path
from igpt.run_directory import RunDirectory

PACKAGES = ("igpt", "torch", "pytorch-lightning", "numpy")


def record_start(run: RunDirectory, step: int, device: torch.device, processes: int) -> None:
    """Add a start of training at `step` to the environment.json of a run."""
    starts = earlier_starts(run) if step else []
    start = {
        "time": time.strftime("%Y-%m-%d %H:%M:%S"),
        "step": step,
        "commit": code_commit(),
        "host": socket.gethostname(),
        "device": device_name(device),
        "processes": processes,
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }
    with atomic_path(run.environment) as temporary:
        temporary.write_text(json.dumps([*starts, start], indent=2) + "\n")


def earlier_starts(run: RunDirectory) -> list[dict[str, Any]]:
    """The starts recorded so far; none if the file is damaged, which must not keep a run from being resumed."""
    try:
        return list(json.loads(run.environment.read_text()))
    except (OSError, ValueError):
        return []


def device_name(device: torch.device) -> str:
    """The name of a device as its maker gives it, or that of the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return processor() if device.type == "cpu" else device.type


def processor() -> str:
    """The model of this machine's processor; its architecture where the model is unknown."""
    file = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.*)$", file.read_text(), re.MULTILINE) if file.exists() else None
    return found[1] if found else platform.machine()
