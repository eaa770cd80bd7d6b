"""Jobs of a sweep that need several processes on this machine: each runs as a command of its own, in a subprocess."""

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


def needs_subprocess(config: DictConfig) -> bool:
    """Whether this is a job of a sweep for which Lightning would start more processes.

    Lightning starts them with the command line of the sweep, so each of them would run the whole sweep, and the
    environment variables that it sets would affect the next job. Under submitit, SLURM starts the processes of a job.
    """
    hydra = HydraConfig.get()
    started_elsewhere = "submitit" in hydra.launcher._target_
    return hydra.mode == RunMode.MULTIRUN and config.trainer.devices not in (1, "1") and not started_elsewhere


def run_in_subprocess(run: RunDirectory) -> None:
    """Run the job whose configuration is in the run directory as a plain command, which starts its processes itself.

    Signals are forwarded to it. If it is stopped, this process exits with the same status; if it fails, its error
    message becomes an :class:`IgptError`.
    """
    job = HydraConfig.get().job
    script = str(Path(sys.argv[0]).resolve())
    number = [f"hydra.job.num={job.num}", f"hydra.job.id={job.id}"]
    command = [sys.executable, script, *stored_arguments(run), *number]
    # In a session of its own, so that Ctrl-C does not reach it twice: from the terminal and forwarded by us.
    process = subprocess.Popen(
        command, env={**os.environ, STARTED_BY: str(os.getpid())}, stderr=subprocess.PIPE, text=True, errors="replace",
        start_new_session=True,
    )  # fmt: skip
    last_lines: deque[str] = deque(maxlen=100)
    reader = threading.Thread(target=echo_and_collect, args=(process.stderr, last_lines), daemon=True)
    reader.start()
    with forwarding_signals(process) as forwarded:
        status = process.wait()
    if status == 130 or (forwarded and status == 0):  # stopped, or requeued by SLURM
        sys.exit(status)
    if status:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # other processes may still wait for the one that failed
        reader.join(timeout=10)
        sentences = [line.removeprefix("Error: ").strip() for line in last_lines if line.startswith("Error: ")]
        raise IgptError(
            sentences[0] if sentences else f"The processes of the job {run.path} ended with status {status}."
        )


def echo_and_collect(lines: IO[str], collected: deque[str]) -> None:
    """Write the stderr of another process to our own, and collect its last lines."""
    for line in lines:
        sys.stderr.write(line)
        collected.append(line)


@contextmanager
def forwarding_signals(process: subprocess.Popen[str]) -> Iterator[list[int]]:
    """Within this block, forward signals to another process; yields the list of signals forwarded so far."""
    forwarded: list[int] = []

    def forward(number: int, frame: Any) -> None:
        forwarded.append(number)
        process.send_signal(number)

    found = {number: signal.signal(number, forward) for number in not_ignored()}
    try:
        yield forwarded
    finally:
        for number, handler in found.items():
            signal.signal(number, handler)
