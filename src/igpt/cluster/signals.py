"""Stopping when somebody asks, a person or SLURM, and going back into SLURM's queue without losing a step."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

from igpt.cluster.child_processes import SIGNALS, end_with
from igpt.cluster.ranks import is_main_process
from igpt.cluster.slurm import job_state

log = logging.getLogger(__name__)

WARNINGS = {signal.SIGUSR1, signal.SIGUSR2}  # what SLURM is told to send before it ends a job
STARTED_BY = "IGPT_STARTED_BY"  # of a command that we started: the process that it must not outlive


class Interrupted(BaseException):
    """The command stopped because somebody asked. Not an Exception: nothing went wrong."""


class StopSignals:
    """What to do about Ctrl-C, SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2, from the first line of a command to its last.

    Where nothing would be lost, a signal ends the command at once, by :class:`Interrupted`. During training, between
    :meth:`defer` and :meth:`obey`, it is only noted in `requested`: it may come in the middle of an update, or at
    different moments in different processes, which have to agree on it and save. A second Ctrl-C ends the process
    whatever it does. A signal that was ignored when the command began, as nohup does to SIGHUP, stays ignored.
    """

    def __init__(self) -> None:
        self._received: set[int] = set()
        self._deferred = False
        self._found: dict[int, Any] = {}  # the handlers from before, submitit's among them
        self.requeues = True  # whether this process, if SLURM runs it, is to begin again later

    @contextmanager
    def listen(self) -> Iterator[None]:
        """Handle the signals inside of this block, and end the process by :meth:`leave` when one is obeyed there.

        A command says it twice: as a whole, and for each job, which submitit runs without the command around it. Inside
        of another one, this only obeys what the job before has noted and did not come to.
        """
        if self._found:
            self.obey()
            yield
            return
        self._received, self._deferred = set(), False
        try:
            for number in not_ignored():
                self._found[number] = signal.signal(number, self._note)
            yield
        except Interrupted:
            self.leave()
        finally:
            for number, handler in self._found.items():
                signal.signal(number, handler)
            self._found = {}

    @property
    def requested(self) -> bool:
        """Whether somebody asked this process to stop."""
        return bool(self._received)

    def defer(self) -> None:
        """From here on only note signals."""
        self._deferred = True

    def obey(self) -> None:
        """From here on signals end the command at once again; one that was noted does so now."""
        self._deferred = False
        if self.requested and is_main_process():
            raise Interrupted

    def _note(self, number: int, frame: FrameType | None) -> None:
        again = self.requested
        self._received.add(number)
        if again and number == signal.SIGINT:
            os._exit(130)  # an exception might be caught, or wait for whatever has to be closed
        if again:
            return  # SLURM says it more than once
        name = signal.Signals(number).name
        if self._deferred:
            log.info("%s: stopping after this step; Ctrl-C stops at once.", name)
        elif is_main_process():  # the others would be missed where processes wait for each other
            log.info("%s: stopping; what is done is kept.", name)
            raise Interrupted

    def leave(self) -> NoReturn:
        """End this process after :class:`Interrupted`: back into the queue if SLURM asked, else as Ctrl-C does.

        All processes call it, when what has to be saved is saved.
        """
        if not self._slurm_asked():
            sys.exit(130 if is_main_process() else 0)  # Lightning kills the main process when another one fails
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # with which SLURM ends a job that it requeues
        if is_main_process():
            self._requeue()
        sys.exit(0)

    def _slurm_asked(self) -> bool:
        """Whether the job is to go on later. A plain SIGTERM comes before a preemption, but from scancel too."""
        if not self.requeues or not in_slurm_job() or signal.SIGINT in self._received:
            return False
        return bool(self._received & WARNINGS) or job_state(os.environ["SLURM_JOB_ID"]) == "RUNNING"

    def _requeue(self) -> None:
        log.info("Going back into SLURM's queue.")
        submitit = self._found.get(signal.SIGUSR2)
        if callable(submitit):
            submitit(signal.SIGUSR2, None)  # counts the time limits, writes the job's file anew and requeues it
        result = subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], capture_output=True, text=True)
        if result.returncode:
            sys.exit(
                f"Error: SLURM did not requeue the job ({result.stderr.strip()}); all is saved; submit it again to "
                "go on, with #SBATCH --requeue."
            )


stop_signals = StopSignals()  # signals belong to a process, and so does what handles them


def not_ignored() -> list[int]:
    """The signals that stop a command: those that were not ignored when it began."""
    return [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


def end_with_starter() -> None:
    """Let a process that one of ours started, as a job or as another rank, end when that one does, even if killed."""
    if not is_main_process():
        end_with(os.getppid())
    elif STARTED_BY in os.environ:
        end_with(int(os.environ[STARTED_BY]))


def in_slurm_job() -> bool:
    """Whether this is a batch job, which has a queue to go back to; an interactive one has a person instead."""
    return "SLURM_JOB_ID" in os.environ and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive")
