"""Child processes that ignore signals, and that exit when the main process exits, even if it is killed.

A terminal and SLURM send a signal to all processes of a command. Only the main process handles it: it needs its data
workers until it has saved.
"""

from __future__ import annotations

import atexit
import os
import signal
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import connection, resource_tracker
from multiprocessing.context import ForkContext, ForkProcess, SpawnContext, SpawnProcess
from multiprocessing.process import BaseProcess, parent_process

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)

_children: weakref.WeakSet[BaseProcess] = weakref.WeakSet()


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Delay signals until the end of this block. Processes started within it have these signals blocked for good."""
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def exit_with(parent: int) -> None:
    """From now on, this process exits as soon as `parent`, the process that started it, has exited."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, name="exit-with-parent", daemon=True).start()


class _Child(BaseProcess):
    """A process of `multiprocessing` with signals blocked."""

    def start(self) -> None:
        with signals_blocked():
            super().start()
        _children.add(self)

    def run(self) -> None:
        parent = parent_process()
        if parent is not None and parent.pid is not None:
            exit_with(parent.pid)
        super().run()

    def terminate(self) -> None:
        """Kill it, because SIGTERM is blocked."""
        self.kill()

    def kill(self) -> None:
        _children.discard(self)
        super().kill()


class _ForkedChild(_Child, ForkProcess):
    pass


class _SpawnedChild(_Child, SpawnProcess):
    pass


class Fork(ForkContext):
    """A context of `multiprocessing` whose processes are forked and have signals blocked."""

    Process = _ForkedChild  # type: ignore[assignment]


class Spawn(SpawnContext):
    """The same for spawned processes, because a fork of a program with threads may deadlock."""

    Process = _SpawnedChild  # type: ignore[assignment]

    def __init__(self) -> None:
        with signals_blocked():  # by itself, Python's resource tracker ignores only SIGINT and SIGTERM
            resource_tracker.ensure_running()


def dead_child(seconds: float = 1.0) -> str | None:
    """How a child died that was not ended on purpose: "was killed by SIGKILL" or "ended with status 1".

    None if no child has died, or dies within `seconds`. Each death is returned once.
    """
    living = [child for child in _children if child.is_alive()]
    ready = connection.wait([child.sentinel for child in living], seconds if living else 0)
    for child in living:
        if child.sentinel in ready:
            child.join(seconds)  # the sentinel is ready shortly before the exit status
    dead = next((child for child in _children if child.exitcode), None)
    if dead is None:
        return None
    _children.discard(dead)
    status = dead.exitcode or 0
    return f"ended with status {status}" if status > 0 else f"was killed by {signal.Signals(-status).name}"


@atexit.register
def _kill_children() -> None:
    """Kill the remaining children. `multiprocessing` would send them SIGTERM, which is blocked, and wait forever."""
    for child in list(_children):
        if child.is_alive():
            child.kill()
