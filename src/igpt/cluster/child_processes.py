"""Processes that we start: they leave signals to the main process, and end when it ends, even if it is killed.

A terminal and SLURM send a signal to every process of a command. The main process decides what it means, and needs its
data workers until it has saved.
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
    """Signals wait until the end of this block; processes that are started inside it never get any."""
    found = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, found)


def end_with(parent: int) -> None:
    """From here on, this process ends as soon as `parent`, the process that started it, has ended."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


class _Child(BaseProcess):
    """A process of `multiprocessing` that gets no signals."""

    def start(self) -> None:
        with signals_blocked():
            super().start()
        _children.add(self)

    def run(self) -> None:
        parent = parent_process()
        if parent is not None and parent.pid is not None:
            end_with(parent.pid)
        super().run()

    def terminate(self) -> None:
        """End it by SIGKILL, since it would not hear SIGTERM."""
        self.kill()

    def kill(self) -> None:
        _children.discard(self)
        super().kill()


class _ForkedChild(_Child, ForkProcess):
    pass


class _SpawnedChild(_Child, SpawnProcess):
    pass


class Fork(ForkContext):
    """A context of `multiprocessing` whose processes are forked and get no signals."""

    Process = _ForkedChild  # type: ignore[assignment]


class Spawn(SpawnContext):
    """The same for spawned processes: a fork of a program with threads can hang."""

    Process = _SpawnedChild  # type: ignore[assignment]

    def __init__(self) -> None:
        with signals_blocked():  # Python's tracker of resources would ignore SIGINT and SIGTERM alone
            resource_tracker.ensure_running()


def lost_child(seconds: float = 1.0) -> str | None:
    """How a child died that nobody had ended: "was killed by SIGKILL" or "ended with status 1". None if none died until
    now, nor within some seconds. Each death is told once.
    """
    living = [child for child in _children if child.is_alive()]
    ready = connection.wait([child.sentinel for child in living], seconds if living else 0)
    for child in living:
        if child.sentinel in ready:
            child.join(seconds)  # its files are closed a moment before it has a status
    lost = next((child for child in _children if child.exitcode), None)
    if lost is None:
        return None
    _children.discard(lost)
    status = lost.exitcode or 0
    return f"ended with status {status}" if status > 0 else f"was killed by {signal.Signals(-status).name}"


@atexit.register
def _kill_children() -> None:
    """At its exit, `multiprocessing` would send SIGTERM to those that are left, and wait for them."""
    for child in list(_children):
        if child.is_alive():
            child.kill()
