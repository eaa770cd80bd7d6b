"""Signals: stop without losing a step, when the user or SLURM asks for it, and requeue a preempted job."""

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

from igpt.cluster.child_processes import SIGNALS, exit_with
from igpt.cluster.ranks import is_main_process
from igpt.cluster.slurm import job_state

log = logging.getLogger(__name__)

WARNINGS = {signal.SIGUSR1, signal.SIGUSR2}  # SLURM is configured to send one of them before it ends a job
STARTED_BY = "IGPT_STARTED_BY"  # environment variable: the process that started this command, which must not outlive it


class Interrupted(BaseException):
    """The command was asked to stop. It is not an Exception, because nothing went wrong."""


class StopSignals:
    """Handles Ctrl-C, SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2 from the start of a command to its end.

    A signal ends the command immediately by raising :class:`Interrupted`. During training, between :meth:`defer` and
    :meth:`obey`, it only sets `requested`: a signal may arrive in the middle of an update, and at different times in
    different processes, which must agree on the last step and save. A second Ctrl-C always ends the process. A signal
    that was ignored when the command started (nohup ignores SIGHUP) stays ignored.
    """

    def __init__(self) -> None:
        self._received: set[int] = set()
        self._deferred = False
        self._previous: dict[int, Any] = {}  # the previous handlers, such as submitit's
        self.requeues = True  # whether SLURM should requeue the job of this process

    @contextmanager
    def listen(self) -> Iterator[None]:
        """Handle signals within this block; end the process by :meth:`leave` if one interrupts it.

        A command enters it as a whole, and again for each job of a sweep, because submitit runs a job without the
        command. A nested block only obeys a signal that the previous job deferred.
        """
        if self._previous:
            self.obey()
            yield
            return
        self._received, self._deferred = set(), False
        try:
            for number in not_ignored():
                self._previous[number] = signal.signal(number, self._handle)
            yield
        except Interrupted:
            self.leave()
        finally:
            for number, handler in self._previous.items():
                signal.signal(number, handler)
            self._previous = {}

    @property
    def requested(self) -> bool:
        """Whether this process was asked to stop."""
        return bool(self._received)

    def defer(self) -> None:
        """From now on, only record signals."""
        self._deferred = True

    def obey(self) -> None:
        """From now on, signals end the command immediately again; a recorded one does so now."""
        self._deferred = False
        if self.requested and is_main_process():
            raise Interrupted

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again = self.requested
        self._received.add(number)
        if again and number == signal.SIGINT:
            os._exit(130)  # an exception might be caught, or delayed by cleanup
        if again:
            return  # SLURM repeats its signals
        name = signal.Signals(number).name
        if self._deferred:
            log.info("%s: stopping after this step; press Ctrl-C to stop immediately.", name)
        elif is_main_process():  # if another rank left alone, the main process would wait for it
            log.info("%s: stopping; finished work is kept.", name)
            raise Interrupted

    def leave(self) -> NoReturn:
        """Exit after :class:`Interrupted`; the job is requeued if SLURM sent the signal.

        All processes call it, after everything has been saved.
        """
        interrupted = 130 if is_main_process() else 0  # Lightning kills the main process if another one fails
        if not self._slurm_asked():
            sys.exit(interrupted)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # SLURM ends a requeued job by SIGTERM
        if is_main_process():
            self._requeue()
        # W&B gives a job of its sweeps out again only if it ended with another status than 0.
        sys.exit(interrupted if "WANDB_SWEEP_ID" in os.environ else 0)

    def _slurm_asked(self) -> bool:
        """Whether SLURM should requeue the job. SIGTERM alone precedes a preemption, but scancel also sends it."""
        if not self.requeues or not in_slurm_job() or signal.SIGINT in self._received:
            return False
        return bool(self._received & WARNINGS) or job_state(os.environ["SLURM_JOB_ID"]) == "RUNNING"

    def _requeue(self) -> None:
        log.info("Requeueing the job.")
        submitit = self._previous.get(signal.SIGUSR2)
        if callable(submitit):
            submitit(signal.SIGUSR2, None)  # it counts timeouts, rewrites the job's file and requeues the job
        result = subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], capture_output=True, text=True)
        if result.returncode:
            sys.exit(
                f"Error: SLURM did not requeue the job ({result.stderr.strip()}), but everything is saved; to "
                "continue, submit it again with #SBATCH --requeue."
            )


stop_signals = StopSignals()  # one per process, as signal handlers are


def not_ignored() -> list[int]:
    """The signals that stop a command: those that were not ignored when it started."""
    return [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


def exit_with_starter() -> None:
    """Exit when the igpt process that started this one, for a job or another rank, exits, even if it is killed."""
    if not is_main_process():
        exit_with(os.getppid())
    elif STARTED_BY in os.environ:
        exit_with(int(os.environ[STARTED_BY]))


def in_slurm_job() -> bool:
    """Whether this is a batch job, which can be requeued, and not an interactive one."""
    return "SLURM_JOB_ID" in os.environ and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive")
