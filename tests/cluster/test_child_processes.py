"""Processes that we start leave signals to the main process, and end when it ends."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from conftest import ended, wait_until
from igpt.cluster.child_processes import SIGNALS, Fork, Spawn, dead_child, signals_blocked


def echo(connection):
    connection.send(connection.recv())


@pytest.mark.parametrize("context", [Fork, Spawn])
def test_a_child_works_on_whatever_signals_it_gets(context):
    ours, its = context().Pipe()
    child = context().Process(target=echo, args=(its,))
    child.start()
    for _ in range(20):  # from its first instructions on
        for number in SIGNALS:
            os.kill(child.pid, number)
        time.sleep(0.01)
    ours.send("still here")
    assert ours.recv() == "still here"
    child.join()
    assert child.exitcode == 0


def test_signals_that_come_while_children_are_started_are_not_lost(terminal):
    heard = []
    signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    with signals_blocked():
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
        assert heard == []
    assert heard == [signal.SIGTERM]


PARENT = """
import sys, time
from igpt.cluster.child_processes import Fork, Spawn
if __name__ == "__main__":
    children = [context().Process(target=time.sleep, args=(1000,), daemon=True) for context in (Fork, Spawn)]
    for child in children:
        child.start()
    print(*(child.pid for child in children), flush=True)
    {then}
"""


def start_parent(tmp_path, then):
    """A program with a forked and a spawned child that would sleep for long; and the numbers of these."""
    script = tmp_path / "parent.py"
    script.write_text(PARENT.format(then=then))
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    return parent, [int(number) for number in parent.stdout.readline().split()]


def test_children_end_when_the_main_process_is_killed(tmp_path):
    parent, children = start_parent(tmp_path, then="time.sleep(1000)")
    assert len(children) == 2
    assert not any(map(ended, children))
    parent.kill()
    parent.wait()
    wait_until(lambda: all(map(ended, children)))


def test_children_that_are_left_do_not_keep_the_main_process_from_its_end(tmp_path):
    parent, children = start_parent(tmp_path, then="sys.exit(3)")
    assert parent.wait(timeout=60) == 3
    assert all(map(ended, children))


def test_the_death_of_a_child_is_told_once_and_its_end_by_us_never():
    children = [Fork().Process(target=time.sleep, args=(1000,)) for _ in range(2)]
    for child in children:
        child.start()
    children[0].terminate()
    children[0].join()
    assert dead_child(0) is None
    os.kill(children[1].pid, signal.SIGKILL)
    assert dead_child(60) == "was killed by SIGKILL"
    assert dead_child(0) is None


STARTER = """
import os, subprocess, sys, time
from igpt.cluster.signals import STARTED_BY
command = "from igpt.cluster.signals import exit_with_starter; exit_with_starter(); print(1, flush=True); input()"
environment = {**os.environ, STARTED_BY: str(os.getpid())}
read, write = os.pipe()  # whose end would end the command otherwise
process = subprocess.Popen(
    [sys.executable, "-c", command], env=environment, stdin=read, stdout=subprocess.PIPE, text=True, pass_fds=[write]
)
process.stdout.readline()
print(process.pid, flush=True)
time.sleep(1000)
"""


@pytest.mark.parametrize("rank", [None, "1"])
def test_a_command_exits_when_the_process_that_started_it_is_killed(monkeypatch, rank):
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    starter = subprocess.Popen([sys.executable, "-c", STARTER], stdout=subprocess.PIPE, text=True)
    command = int(starter.stdout.readline())
    assert not ended(command)
    starter.kill()
    starter.wait()
    wait_until(lambda: ended(command))
