"""The effect of each signal at each moment, and which signals requeue a job. These tests need no cluster."""

import signal
import subprocess
import sys

import pytest

from conftest import SMALL
from igpt.cluster.child_processes import SIGNALS
from igpt.cluster.signals import Interrupted, StopSignals

SCONTROL = """#!/bin/sh
echo "$@" >> {calls}
[ "$1" = show ] && echo "JobId=7 JobName=igpt JobState={state} Reason=None" || exit {status}
"""


pytestmark = pytest.mark.usefixtures("terminal")


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch):
    for name in ("SLURM_JOB_ID", "SLURM_JOB_NAME", "SLURM_PROCID", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def job(monkeypatch, tmp_path):
    """Pretend to be job 7, in some state according to SLURM; returns a function that lists the calls of scontrol."""

    def begin(state="RUNNING", status=0, rank=0):
        calls = tmp_path / "calls"
        program = tmp_path / "scontrol"
        program.write_text(SCONTROL.format(calls=calls, state=state, status=status))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        monkeypatch.setenv("SLURM_JOB_ID", "7")
        monkeypatch.setenv("SLURM_PROCID", str(rank))
        return lambda: calls.read_text().splitlines() if calls.exists() else []

    return begin


def stopped_by(*numbers):
    """The exit status of a command that was training when the signals arrived."""
    signals = StopSignals()
    with signals.listen():
        signals.defer()
        for number in numbers:
            signal.raise_signal(number)
        with pytest.raises(SystemExit) as stop:
            signals.leave()
    return stop.value.code


@pytest.mark.parametrize("number", SIGNALS)
def test_before_training_a_signal_ends_the_command_once(number):
    signals = StopSignals()
    with signals.listen():
        with pytest.raises(Interrupted):
            signal.raise_signal(number)
        if number != signal.SIGINT:
            signal.raise_signal(number)  # SLURM repeats its signals while the command exits
        signal.raise_signal(signal.SIGTERM)


SIGNAL_AT_IMPORT = """
import os, signal, sys
from igpt.commands.train import main

class Sender:
    sent = False

    def find_spec(self, name, *_):
        if name == {module!r} and not self.sent:
            self.sent = True
            os.kill(os.getpid(), signal.SIGUSR2)

sys.meta_path.insert(0, Sender())
main()
"""


@pytest.mark.parametrize("module", ["hydra", "igpt.conf", "torch", "pytorch_lightning"])
def test_a_signal_ends_the_command_quietly_whatever_is_being_imported(module, tmp_path):
    command = [sys.executable, "-c", SIGNAL_AT_IMPORT.format(module=module), *SMALL, "trainer=cpu"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 130
    assert "Traceback" not in result.stderr


def test_a_signal_that_one_job_noted_is_obeyed_by_the_next_one():
    signals, began = StopSignals(), []

    def jobs():
        with signals.listen():
            for number in range(3):
                with signals.listen():
                    began.append(number)
                    signals.defer()
                    if number == 1:
                        signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit) as stop:
        jobs()
    assert stop.value.code == 130
    assert began == [0, 1]


def test_in_training_a_signal_is_noted_and_obeyed_afterwards():
    signals = StopSignals()
    with signals.listen():
        signals.defer()
        assert not signals.requested
        signal.raise_signal(signal.SIGUSR2)
        assert signals.requested
        with pytest.raises(Interrupted):
            signals.obey()


def test_a_second_ctrl_c_stops_at_once(monkeypatch):
    left = []
    monkeypatch.setattr("os._exit", left.append)
    signals = StopSignals()
    with signals.listen():
        signals.defer()
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            assert left == []
            signal.raise_signal(number)
    assert left == [130]


def test_handlers_from_before_are_back_afterwards():
    before = [signal.getsignal(number) for number in SIGNALS]
    with StopSignals().listen():
        assert before != [signal.getsignal(number) for number in SIGNALS]
    assert before == [signal.getsignal(number) for number in SIGNALS]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_that_was_ignored_at_the_start_stays_ignored(number):
    signals = StopSignals()
    signal.signal(number, signal.SIG_IGN)
    with signals.listen(), signals.listen():
        signal.raise_signal(number)
        signals.defer()
        signal.raise_signal(number)
        assert not signals.requested
        assert signal.getsignal(number) == signal.SIG_IGN  # so that processes that are started ignore it as well
    assert signal.getsignal(number) == signal.SIG_IGN


def test_only_the_process_of_rank_0_leaves_the_others_waiting(job):
    job(rank=1)
    signals = StopSignals()
    with signals.listen():
        signal.raise_signal(signal.SIGUSR2)
        assert signals.requested


def test_without_a_cluster_every_signal_ends_like_ctrl_c():
    assert [stopped_by(number) for number in SIGNALS] == [130] * len(SIGNALS)


def test_without_a_cluster_other_ranks_leave_the_status_to_the_main_process(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert stopped_by(signal.SIGINT) == 0


def test_the_warning_of_a_cluster_requeues(job):
    asked = job()
    assert stopped_by(signal.SIGTERM, signal.SIGUSR2, signal.SIGTERM) == 0
    assert asked() == ["requeue 7"]


def test_other_ranks_end_quietly(job):
    asked = job(rank=1)
    assert stopped_by(signal.SIGUSR2) == 0
    assert asked() == []


@pytest.mark.parametrize(
    ("state", "status", "requeued"), [("RUNNING", 0, 1), ("CANCELLED", 130, 0), ("TIMEOUT", 130, 0)]
)
def test_sigterm_requeues_a_job_that_slurm_has_not_canceled(job, state, status, requeued):
    asked = job(state)
    assert stopped_by(signal.SIGTERM) == status
    assert asked().count("requeue 7") == requeued


def test_a_command_that_submits_jobs_is_not_requeued(job):
    asked, signals = job(), StopSignals()
    signals.requeues = False
    with pytest.raises(SystemExit) as stop, signals.listen():
        signal.raise_signal(signal.SIGUSR2)
    assert stop.value.code == 130
    assert asked() == []


def test_ctrl_c_does_not_requeue(job):
    asked = job()
    assert stopped_by(signal.SIGINT) == 130
    assert asked() == []


def test_submitit_is_asked_where_it_runs_the_job(job):
    asked, called = job(), []
    before = signal.signal(signal.SIGUSR2, lambda number, frame: called.append(number) or exit(255))
    try:
        assert stopped_by(signal.SIGUSR2) == 255
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert called == [signal.SIGUSR2]
    assert asked() == []


def test_a_refusal_says_what_to_do(job):
    job(status=1)
    assert "SLURM did not requeue the job" in stopped_by(signal.SIGUSR2)
