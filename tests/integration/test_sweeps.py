"""Sweeps: jobs of several processes are those of one, a failed job stops nobody, and a table says what came out."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from statistics import median

import pytest
from hydra import compose, initialize_config_module
from hydra.core.hydra_config import HydraConfig
from PIL import Image

from conftest import SMALL
from igpt.errors import IgptError
from igpt.run_directory import RunDirectory
from igpt.sweeps.subprocess_jobs import run_in_subprocess
from igpt.training.loggers.wandb_tracker import names_of

FEW = (*SMALL, "trainer.max_steps=4", "trainer.val_check_interval=2", "callbacks=none")
PROCESSES = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")
# With this seed, the second job has the lower learning rate, and is pruned after two steps.
SEARCH = (
    "hydra/sweeper=tpe", "hydra.sweeper.sampler.seed=4", "hydra.sweeper.n_trials=2",
    "optim.lr=tag(log,interval(1e-6,1e-1))", "callbacks.prune.startup_trials=1", "callbacks.prune.warmup=0.3",
)  # fmt: skip


def sweep_in_processes(cwd, *overrides):
    """A sweep whose jobs have processes of their own must start from a process of its own, with a real command line."""
    script = Path(sys.executable).with_name("igpt-train")
    result = subprocess.run(
        [script, "-m", *FEW, *PROCESSES, *overrides], cwd=cwd, capture_output=True, text=True, timeout=600
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def table(folder):
    with open(folder / "sweep.csv", newline="") as file:
        return list(csv.DictReader(file))


def losses(run):
    with open(run / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    names = ("train/nats_per_token", "val/nats_per_token", "test/nats_per_token")
    return {(row["step"], name): float(row[name]) for row in rows for name in names if row[name]}


def test_jobs_of_two_processes_are_those_of_one(command, tmp_path):
    """With a search, whose pruning both processes must agree on."""
    pytest.importorskip("optuna")
    command("train", "-m", *FEW, *SEARCH, "hydra.sweep.dir=one")
    sweep_in_processes(tmp_path, *SEARCH, "hydra.sweep.dir=two")

    one, two = table(tmp_path / "one"), table(tmp_path / "two")
    assert [row["changed"] for row in two] == [row["changed"] for row in one]
    assert len([p for p in (tmp_path / "two").iterdir() if p.is_dir()]) == 2
    assert [row["status"] for row in two] == [row["status"] for row in one]
    assert [row["status"] for row in one] == ["finished", "pruned"]
    for row, other in zip(one, two, strict=True):
        expected = losses(tmp_path / row["run"])
        assert len(expected) == (2 + 1 + 1 if row["status"] == "pruned" else 4 + 2 + 1)
        assert losses(tmp_path / other["run"]) == pytest.approx(expected, rel=1e-5)
    assert losses(tmp_path / one[0]["run"]) != pytest.approx(losses(tmp_path / one[1]["run"]), rel=1e-5)
    assert not (tmp_path / "outputs").exists()  # nobody ran anywhere else


PRUNED = (
    "hydra/sweeper=tpe", "optim.lr=choice(1e-6,0.02)", "callbacks.prune.startup_trials=1", "callbacks.prune.warmup=0.4",
    "optim=adam", "optim.warmup_steps=1", "optim.schedule=constant",
)  # fmt: skip


def validations(run):
    """What was monitored, by the number of steps done."""
    found = losses(run).items()
    return {int(step) + 1: value for (step, name), value in found if name == "val/nats_per_token"}


def pruned_at(values, others, warmup_steps, end):
    """The step at which the median rule ends a job, or None: an implementation of our own."""
    for step in sorted(values):
        theirs = [other[step] for other in others if step in other]
        best = min(value for at, value in values.items() if at <= step)
        if warmup_steps <= step < end and theirs and best > median(theirs):
            return step
    return None


def test_unpromising_trials_end_early(command, tmp_path):
    pytest.importorskip("optuna")
    printed = command(
        "train", "-m", *FEW, *PRUNED, "hydra.sweeper.n_trials=5", "trainer.max_steps=8", "hydra.sweep.dir=s"
    )
    rows = table(tmp_path / "s")
    seen = [validations(tmp_path / row["run"]) for row in rows]
    expected = [pruned_at(values, seen[:i], 3, 8) for i, values in enumerate(seen)]
    assert {None} < set(expected)
    assert 2 not in expected  # which is less than 0.4 of 8
    assert [max(values) for values in seen] == [step or 8 for step in expected]
    assert [row["status"] for row in rows] == ["pruned" if step else "finished" for step in expected]
    for row, values in zip(rows, seen, strict=True):
        assert float(row["val/nats_per_token"]) == min(values.values())
        assert (tmp_path / row["run"] / "summary.json").exists()
    assert "5 of 5 jobs produced a result" in printed

    run, steps = next((tmp_path / row["run"], step) for row, step in zip(rows, expected, strict=True) if step)
    (run / "summary.json").unlink()  # as if its report had been interrupted
    command("train", f"run={run}")
    assert json.loads((run / "summary.json").read_text())["steps"] == steps


def test_a_failed_job_is_in_the_table_and_the_others_continue(command, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        command("train", "-m", *FEW, "optim.schedule=constant,square,cosine", "seed=3", "hydra.sweep.dir=s")
    assert caught.value.code == "Error: 1 of 3 jobs of the sweep produced no result; the table says why."
    printed = capsys.readouterr().out
    rows = table(tmp_path / "s")
    assert [row["status"] for row in rows] == ["finished", "failed", "finished"]
    assert "optim.schedule is square" in rows[1]["error"]
    assert [row["changed"] for row in rows] == [f"optim.schedule={name}" for name in ("constant", "square", "cosine")]
    assert [row["run"] for row in rows] == [str(tmp_path / "s" / job) for job in "012"]
    names = [names_of(RunDirectory(tmp_path / row["run"])) for row in rows]  # in W&B
    assert names == [{"name": row["changed"], "group": "s"} for row in rows]
    assert not {"varied", "sweep"} & set(rows[0])
    assert all("seed=3" in row["overrides"].split() for row in rows)
    values = {row["run"]: float(row["val/nats_per_token"]) for row in (rows[0], rows[2])}
    for run, value in values.items():
        logged = losses(tmp_path / run)
        assert value == min(v for (_, name), v in logged.items() if name == "val/nats_per_token") < math.log(16)
    best = min(values, key=values.get)
    assert f"Best: val/nats_per_token {values[best]:.4f} in {best}" in printed
    assert "2 of 3 jobs produced a result" in printed
    shown = [line.split() for line in printed.splitlines() if "optim.schedule=" in line and line[0] in "012"]
    assert [words[:2] for words in shown] == [["0", "finished"], ["1", "failed"], ["2", "finished"]]
    assert Image.open(tmp_path / "s" / "sweep.png").width > 100


def test_a_job_that_failed_and_runs_again_is_a_finished_one(command, tmp_path):
    with pytest.raises(SystemExit):
        command("train", "-m", *FEW, "optim.schedule=square", "hydra.sweep.dir=s")
    assert table(tmp_path / "s")[0]["error"]
    command("train", "-m", *FEW, "optim.schedule=constant", "hydra.sweep.dir=s")
    (row,) = table(tmp_path / "s")
    assert row["status"] == "finished"
    assert not row["error"]


def test_a_sweep_of_failures_is_an_error(command, tmp_path):
    with pytest.raises(SystemExit) as caught:
        command("train", "-m", *FEW, "optim.schedule=square,round", "hydra.sweep.dir=s")
    assert "no job of the sweep produced a result" in caught.value.code
    assert [row["status"] for row in table(tmp_path / "s")] == ["failed", "failed"]


@pytest.fixture
def job(monkeypatch, tmp_path):
    """Hydra's configuration of the third job of a sweep, and a command that does what a text says."""
    with initialize_config_module("igpt.conf", version_base="1.3"):
        overrides = ["hydra.job.num=2", "hydra.job.id=2"]
        HydraConfig.instance().set_config(compose("train", overrides, return_hydra_config=True))

    def start(program):
        script = tmp_path / "command.py"
        script.write_text(f"import json, os, signal, sys, time\n{program}\n")
        monkeypatch.setattr(sys, "argv", [str(script), "-m", "seed=1,2"])
        before = (list(sys.argv), dict(os.environ), signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
        try:
            run_in_subprocess(RunDirectory(tmp_path / "run"))
        finally:
            assert before == (sys.argv, os.environ, signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))

    yield start
    HydraConfig.instance().cfg = None


def test_command_of_a_job_is_that_job_in_its_directory_and_no_sweep(job, tmp_path):
    job(f"open({str(tmp_path / 'seen')!r}, 'w').write(json.dumps(sys.argv[1:]))")
    seen = (tmp_path / "seen").read_text()
    assert str(tmp_path / "run" / ".hydra") in seen
    assert f"hydra.run.dir='{tmp_path / 'run'}'" in seen
    assert "hydra.job.num=2" in seen
    assert "-m" not in seen.split('"')
    assert "seed=1,2" not in seen


def test_error_of_a_job_is_what_it_said(job, capfd):
    with pytest.raises(IgptError, match="^The loss became NaN.$"):
        job("print('a warning', file=sys.stderr)\nsys.exit('Error: The loss became NaN.')")
    assert "a warning" in capfd.readouterr().err


def test_job_whose_processes_die_is_an_error(job):
    with pytest.raises(IgptError, match="ended with status -9"):
        job("os.kill(os.getpid(), signal.SIGKILL)")


def test_ctrl_c_reaches_the_processes_of_a_job_once_and_is_waited_for(job, tmp_path, terminal):
    log = tmp_path / "signals"
    threading.Timer(2, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(SystemExit) as caught:
        job(
            f"signal.signal(signal.SIGINT, lambda *_: open({str(log)!r}, 'a').write('x'))\n"
            "signal.pause()\ntime.sleep(0.5)\nsys.exit(130)"
        )
    assert caught.value.code == 130
    assert log.read_text() == "x"
