"""Jobs of a sweep that need several processes on this machine: each of them runs apart from the sweep."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from igpt.cluster.signals import STARTED_BY, not_ignored
from igpt.configuration.resume import stored_arguments
from igpt.errors import IgptError
from igpt.run_directory import RunDirectory


def runs_apart(config: DictConfig) -> bool:
    """Whether this is a job of a sweep that Lightning would start more processes for.

    It starts them with the command line of the whole sweep, so that each would sweep anew; and what it leaves behind in
    the environment would reach the next job. Under submitit, SLURM starts the processes, each with its one job.
    """
    hydra = HydraConfig.get()
    started_elsewhere = "submitit" in hydra.launcher._target_
    return hydra.mode == RunMode.MULTIRUN and config.trainer.devices not in (1, "1") and not started_elsewhere


def run_apart(run: RunDirectory) -> None:
    """Run the job whose configuration lies in the run directory as a plain command, which starts its processes itself.

    Nothing of this process changes, whatever happens to the other. Ctrl-C and the like are handed on, and the command
    then ends as the other one did.
    """
    job = HydraConfig.get().job
    script = str(Path(sys.argv[0]).resolve())
    number = [f"hydra.job.num={job.num}", f"hydra.job.id={job.id}"]
    command = [sys.executable, script, *stored_arguments(run), *number]
    # In a session of its own, so that Ctrl-C does not reach it twice: from the terminal and from us.
    process = subprocess.Popen(
        command, env={**os.environ, STARTED_BY: str(os.getpid())}, stderr=subprocess.PIPE, text=True, errors="replace",
        start_new_session=True,
    )  # fmt: skip
    said: deque[str] = deque(maxlen=100)
    reader = threading.Thread(target=show_and_keep, args=(process.stderr, said), daemon=True)
    reader.start()
    with handing_on_signals(process) as handed_on:
        status = process.wait()
    if status == 130 or (handed_on and status == 0):  # stopped, or gone back into SLURM's queue
        sys.exit(status)
    if status:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # one that still waits for the others
        reader.join(timeout=10)
        sentences = [line.removeprefix("Error: ").strip() for line in said if line.startswith("Error: ")]
        raise IgptError(
            sentences[0] if sentences else f"The processes of the job {run.path} ended with status {status}."
        )


def show_and_keep(lines: IO[str], kept: deque[str]) -> None:
    """Pass on what another process writes to stderr, and keep the last of it."""
    for line in lines:
        sys.stderr.write(line)
        kept.append(line)


@contextmanager
def handing_on_signals(process: subprocess.Popen[str]) -> Iterator[list[int]]:
    """Inside of this block, signals go to another process, which knows what to save; gives those that came."""
    handed_on: list[int] = []

    def hand_on(number: int, frame: Any) -> None:
        handed_on.append(number)
        process.send_signal(number)

    found = {number: signal.signal(number, hand_on) for number in not_ignored()}
    try:
        yield handed_on
    finally:
        for number, handler in found.items():
            signal.signal(number, handler)
