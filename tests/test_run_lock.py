"""The lock of a run: one holder at a time, whoever died before."""

import dataclasses
import json
import multiprocessing
import os
import subprocess
import sys
import time

import pytest

from igpt.configuration.new_folders import new_folder
from igpt.errors import RunTakenError
from igpt.run_lock import Owner, locked, start_time

ME = Owner.here()


def dead():
    process = subprocess.Popen([sys.executable, "-c", ""])
    owner = dataclasses.replace(ME, process=process.pid, started=start_time(process.pid))
    process.wait()
    return owner


def compete(folder, start, results):
    """Try many times to hold the lock; with it, be alone."""
    start.wait()
    held = 0
    for _ in range(200):
        try:
            with locked(folder / "lock"):
                (folder / "alone").touch(exist_ok=False)
                held += 1
                (folder / "alone").unlink()
                if held % 5 == 0:  # dies now and then, from its lock's point of view
                    (folder / "lock").write_text(json.dumps(dataclasses.asdict(ME) | {"started": "1"}))
        except RunTakenError:
            time.sleep(0.0005)
        except FileExistsError:
            results.put("two at once")
            return
    results.put(held)


def test_of_many_processes_one_holds_the_lock_also_where_others_died(tmp_path):
    context = multiprocessing.get_context("fork")
    start, results = context.Event(), context.Queue()
    processes = [context.Process(target=compete, args=(tmp_path, start, results)) for _ in range(6)]
    for process in processes:
        process.start()
    start.set()
    held = [results.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    assert "two at once" not in held
    assert sum(held) > 6


def test_a_lock_vanishes_with_an_error(tmp_path):
    def fail():
        with locked(tmp_path / "lock"):
            assert json.loads((tmp_path / "lock").read_text())["process"] == os.getpid()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_who_is_gone():
    gone = dead()
    assert gone.is_gone(seen_from=ME)
    assert not ME.is_gone(seen_from=ME)
    assert dataclasses.replace(ME, started="1").is_gone(seen_from=ME)
    for place in ({"host": "node7"}, {"namespace": "pid:[7]"}):  # another host, another container on this one
        assert not dataclasses.replace(gone, **place).is_gone(seen_from=ME)


def test_a_lock_that_cannot_be_written_is_no_lock(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.write_text", fail)
        with pytest.raises(OSError, match="No space"), locked(tmp_path / "lock"):
            pass
    with locked(tmp_path / "lock"):
        pass


def test_an_earlier_start_of_the_same_job_of_a_cluster_is_gone(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    before = dataclasses.replace(Owner.here(), host="node7")
    assert not before.is_gone(seen_from=Owner.here())  # another step of the job, on another node
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert before.is_gone(seen_from=Owner.here())


@pytest.mark.parametrize(
    ("answer", "gone"),
    [
        ("echo 'JobId=7 JobName=igpt JobState=RUNNING Reason=None'", False),
        ("echo 'JobId=7 JobName=igpt JobState=NODE_FAIL Reason=None'", True),
        ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", True),
        ("echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1", False),
    ],
)
def test_slurm_is_asked_about_another_job_on_another_host(tmp_path, monkeypatch, answer, gone):
    (tmp_path / "scontrol").write_text(f"#!/bin/sh\n{answer}\n")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    owner = dataclasses.replace(ME, host="node7", job="7", cluster="here")
    assert owner.is_gone(seen_from=dataclasses.replace(ME, cluster="here")) == gone
    assert not owner.is_gone(seen_from=dataclasses.replace(ME, cluster="there"))


def test_a_process_that_nobody_waited_for_is_gone():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    owner = dataclasses.replace(ME, process=process.pid, started=start_time(process.pid))
    assert not owner.is_gone(seen_from=ME)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie from here on
    assert owner.is_gone(seen_from=ME)
    process.wait()


def test_new_folders_are_nobody_elses(tmp_path):
    folders = [new_folder(tmp_path / "runs" / "2030.01.01") for _ in range(3)]
    assert [folder.name for folder in folders] == ["2030.01.01", "2030.01.01_2", "2030.01.01_3"]
