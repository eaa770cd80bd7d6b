"""igpt-jobs: what it reads from a sweep's folder and from SLURM, here a program that answers as squeue does."""

import csv
import json
import os
import subprocess
import sys

import pytest
import yaml

from igpt.run_directory import RunDirectory, write_job
from igpt.run_lock import Owner
from igpt.stored_run import StoredRun
from igpt.sweeps.sweep_results import write_results

SQUEUE = """#!/bin/sh
echo '12_0|COMPLETED|None'
echo '12_1|RUNNING|None'
echo '12_2|PENDING|Resources'
echo '13|RUNNING|None'
"""


def make_run(folder, name, lr, steps, **record):
    """A run directory as far as igpt-jobs looks at it, after some steps."""
    run = folder / name
    (run / ".hydra").mkdir(parents=True)
    (run / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(["seed=0", f"optim.lr={lr}"]))
    config = {"trainer": {"max_steps": 30}, "monitor": "val/nats_per_token", "monitor_mode": "min"}
    (run / ".hydra" / "config.yaml").write_text(yaml.safe_dump(config))
    rows = [f"{step},{5 - step / 10},{2 + abs(step - 5) if step % 5 == 0 else ''}" for step in range(steps)]
    if rows:
        (run / "metrics.csv").write_text("\n".join(["step,train/loss,val/nats_per_token", *rows]) + "\n")
    write_job(run, overrides=["seed=0", f"optim.lr={lr}"], **record)
    if record["status"] == "finished":
        (run / "summary.json").write_text(json.dumps({"steps": steps}))
    return run


def hold_lock(run, **owner):
    """The lock of this process, or one that differs from it."""
    (run / "train.lock").write_text(json.dumps({**vars(Owner.here()), **owner}))


def shown(text):
    """The lines of the table as dicts; columns begin where their heads do."""
    head, *lines = text.splitlines()[1:]
    names = head.split()
    starts = [head.index(name) for name in names]
    ends = [*starts[1:], None]
    return [{n: line[i:j].strip() for n, i, j in zip(names, starts, ends, strict=True)} for line in lines]


def test_jobs_of_a_cluster(command, tmp_path, monkeypatch):
    sweep = tmp_path / "outputs" / "emoji" / "2030-01-01_sweep"
    make_run(sweep, "0", 0.1, 30, status="finished", starts=1, slurm="12_0")
    hold_lock(make_run(sweep, "1", 0.2, 12, status="running", starts=3, slurm="12_1"), host="node7")
    for number in range(3):
        overrides = ["seed=0", f"optim.lr=0.{number + 1}"]
        write_job(sweep / "slurm" / f"12_{number}", status="pending", overrides=overrides)
    (tmp_path / "outputs" / "emoji" / "2029-12-31_sweep").mkdir()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "squeue").write_text(SQUEUE)
    (tmp_path / "bin" / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")

    finished, runs, waits = shown(command("jobs"))
    assert finished["status"] == "finished"
    assert finished["SLURM"] == "12_0 COMPLETED"
    assert finished["step"] == "30/30"
    assert finished["val/nats_per_token"] == "2.0000"
    assert finished["restarts"] == "0"
    assert runs["SLURM"] == "12_1 RUNNING"
    assert runs["step"] == "12/30"
    assert runs["train/loss"] == "3.9000"  # at step 11, the last
    assert runs["restarts"] == "2"
    assert runs["run"].endswith("_sweep/1")
    assert waits["status"] == "pending"
    assert waits["SLURM"] == "12_2 PENDING (Resources)"
    assert [job["changed"] for job in (finished, runs, waits)] == ["optim.lr=0.1", "optim.lr=0.2", "optim.lr=0.3"]


def test_jobs_here_of_which_one_was_killed_and_one_failed(command, tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    hold_lock(make_run(tmp_path / "s", "0", 0.1, 6, status="running", starts=1), process=gone.pid)
    make_run(tmp_path / "s", "1", 0.2, 0, status="failed", error="The loss became NaN.", starts=1)
    hold_lock(make_run(tmp_path / "s", "2", 0.3, 6, status="running", starts=1))
    printed = command("jobs", "sweep=s")
    assert "Job 1: The loss became NaN." in printed
    assert [job["status"] for job in shown(printed)[:3]] == ["interrupted", "failed", "running"]


def test_a_job_that_slurm_ended_before_it_could_say_so_failed(command, tmp_path):
    run = make_run(tmp_path / "s", "0", 0.1, 6, status="running", starts=1, slurm="40")
    hold_lock(run, host="node7")  # which stays, and from here nobody can tell whether its process has ended
    os.utime(run / "train.lock", (1e9, 1e9))
    write_job(tmp_path / "s" / "slurm" / "40", status="failed", overrides=[], error="SLURM ended it as NODE_FAIL")
    printed = command("jobs", "sweep=s")
    assert shown(printed)[0]["status"] == "failed"
    assert "Job 0: SLURM ended it as NODE_FAIL" in printed
    assert StoredRun(RunDirectory(run)).error == "SLURM ended it as NODE_FAIL"
    hold_lock(run, host="node7")  # requeued, so this lock is newer
    assert shown(command("jobs", "sweep=s"))[0]["status"] == "running"


def test_a_job_that_failed_and_was_resumed_by_hand_has_the_status_of_its_run(command, tmp_path):
    run = make_run(tmp_path / "s", "0", 0.1, 6, status="failed", error="No memory.", starts=1)
    make_run(tmp_path / "s", "1", 0.2, 6, status="failed", error="No memory.", starts=1)
    hold_lock(run)
    printed = command("jobs", "sweep=s")
    assert [job["status"] for job in shown(printed)[:2]] == ["running", "failed"]
    assert "Job 0" not in printed
    (run / "train.lock").unlink()
    (run / "summary.json").write_text(json.dumps({"steps": 6}))
    write_results(tmp_path / "s", "val/nats_per_token", "min")
    first, second = csv.DictReader((tmp_path / "s" / "sweep.csv").open())
    assert (first["status"], first["val/nats_per_token"], first["error"]) == ("finished", "2.0", "")
    assert (second["status"], second["error"]) == ("failed", "No memory.")


@pytest.mark.parametrize("arguments", [(), ("sweep=nowhere",)])
def test_no_sweep_is_one_sentence(command, arguments):
    with pytest.raises(SystemExit) as caught:
        command("jobs", *arguments)
    assert caught.value.code.endswith("sweep=DIR.")
    assert "\n" not in caught.value.code


def test_torch_is_not_imported(tmp_path):
    make_run(tmp_path / "s", "0", 0.1, 6, status="running", starts=1)
    code = (
        "import sys, json; sys.argv = ['igpt-jobs', 'sweep=s']\nfrom igpt.commands.jobs import main; main()\n"
        "print(json.dumps([m for m in ('torch', 'pytorch_lightning', 'numpy', 'matplotlib') if m in sys.modules]))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(result.stdout.splitlines()[-1]) == []
