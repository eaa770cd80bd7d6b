"""Signals to all processes of a command, as a terminal and SLURM send them: it stops, saved, and resumes exactly.

IGPT_TEST_ALL_SIGNALS=1 tries every signal with every number of workers at every moment.
"""

import csv
import itertools
import multiprocessing
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from signal_at import train_in_fork

from conftest import SMALL, ended, run_command, wait_until
from igpt.cluster.child_processes import SIGNALS
from igpt.objectives.objective import Objective
from igpt.training.callbacks.keep_last import KeepLast
from igpt.training.checkpoint_io import AtomicCheckpointIO

pytestmark = pytest.mark.usefixtures("terminal")

RECIPE = (
    *SMALL, "trainer=cpu", "trainer.val_check_interval=8", "sample_every=8", "save_every=3",
    "trainer.max_steps=24",
)  # fmt: skip

HALVES = ("data.device_batch_size=8",)

# The function at whose n-th call the signal comes.
MOMENTS = {
    "start": ("igpt.commands.build:build_objective", 1),
    "packing": ("igpt.data.packed.shards:read_shard", 2),
    "before the first step": ("igpt.training.callbacks.keep_last:KeepLast.on_train_start", 1),
    "training": ("igpt.training.callbacks.keep_last:KeepLast.on_train_batch_start", 6),
    "a save": ("igpt.training.checkpoint_io:torch.save", 2),
    "validation": ("igpt.objectives.objective:Objective.validation_step", 2),
    "sampling": ("igpt.training.callbacks.sample_images:sample_figures", 2),
    "the report": ("igpt.pretrained:Pretrained.nats", 1),
}
ALL = list(itertools.product(SIGNALS, (0, 1, 3), MOMENTS))
# Each signal with each number of workers, and each moment with workers and without.
PAIRS = [case for n, case in enumerate(ALL) if n % 8 == n // 8 * 3 % 8]
CASES = ALL if os.environ.get("IGPT_TEST_ALL_SIGNALS") else PAIRS


def metrics(run):
    """The values of all steps that do not depend on the machine."""
    names = ("step", "train/nats_per_token", "train/grad_norm", "train/lr", "val/nats_per_token", "test/nats_per_token")
    with open(run / "metrics.csv") as file:
        return [[row[name] for name in names] for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The values of an uninterrupted run."""
    return undisturbed(tmp_path_factory)


@pytest.fixture(scope="module")
def whole_in_halves(tmp_path_factory):
    """The same with two micro-batches a step."""
    return undisturbed(tmp_path_factory, *HALVES)


def undisturbed(tmp_path_factory, *overrides):
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IGPT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        run_command("train", *RECIPE, *overrides, "hydra.run.dir=run", cwd=folder)
    return metrics(folder / "run")


def stop(number, moment, *recipe, cwd):
    """Start igpt-train in a process group of its own and signal all its processes; whether it saved."""
    output = send(signal.Signals(number).name, moment, *recipe, cwd=cwd)
    saved = (cwd / "run" / "checkpoints" / "last.ckpt").exists()
    assert saved == ("Stopped and saved at step" in output)
    return saved


# Most of the time of a short run goes into imports, so runs of one process are forked from one that has done them.
forks = multiprocessing.get_context("forkserver")
forks.set_forkserver_preload(
    ["pytorch_lightning", "igpt.data.datamodule", "igpt.pretrained", "igpt.configuration.schema.check"]
)


def send(names, moment, *recipe, cwd):
    """The output of igpt-train, whose processes get signals."""
    function, n = MOMENTS[moment]
    output, environment = cwd / "output.txt", {**os.environ, "SIGNAL_AT": f"{names} {function} {n}"}
    if "trainer=ddp" in recipe:  # Lightning starts the second process by the command line of the first
        script = Path(__file__).with_name("signal_at.py")
        with open(output, "wb") as file:
            status = subprocess.run(
                [sys.executable, script, *recipe], cwd=cwd, env=environment, start_new_session=True,
                stdout=file, stderr=file, timeout=300,
            ).returncode  # fmt: skip
    else:
        process = forks.Process(target=train_in_fork, args=(recipe, cwd, environment, output))
        process.start()
        process.join(300)
        status = process.exitcode
    text = output.read_text()
    assert status == 130, text
    assert "Traceback" not in text
    return text


@pytest.mark.parametrize(("number", "workers", "moment"), CASES)
def test_a_signal_to_all_processes_stops_the_run_which_resumes_exactly(
    command, whole, tmp_path, monkeypatch, number, workers, moment
):
    if moment == "packing":
        monkeypatch.setenv("IGPT_CACHE", str(tmp_path / "cache"))
    recipe = (*RECIPE, f"data.num_workers={workers}", "hydra.run.dir=run")
    saved = stop(number, moment, *recipe, cwd=tmp_path)
    assert saved == (moment not in ("start", "packing", "before the first step"))
    if saved or moment == "packing":  # else nothing has been done yet
        command("train", *recipe)
        assert metrics(tmp_path / "run") == whole


def test_a_second_ctrl_c_ends_all_processes(command, whole, tmp_path):
    output = send("SIGINT,SIGINT", "a save", *RECIPE, "data.num_workers=2", "hydra.run.dir=run", cwd=tmp_path)
    assert output.endswith("SIGINT: stopping after this step; press Ctrl-C to stop immediately.\n")
    command("train", "run=run")
    assert metrics(tmp_path / "run") == whole


DDP = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")


@pytest.mark.parametrize(
    ("number", "workers", "moment"), [(signal.SIGINT, 1, "training"), (signal.SIGTERM, 0, "before the first step")]
)
def test_a_signal_to_two_processes_and_their_workers_stops_both_saved(tmp_path, number, workers, moment):
    assert stop(number, moment, *RECIPE, *DDP, f"data.num_workers={workers}", "hydra.run.dir=run", cwd=tmp_path)


def test_the_other_process_ends_when_the_main_one_is_killed(tmp_path):
    script = Path(sys.executable).with_name("igpt-train")
    command = [script, *RECIPE, *DDP, "data.num_workers=1", "trainer.max_steps=1000000", "hydra.run.dir=run"]
    process = subprocess.Popen(command, cwd=tmp_path, start_new_session=True, stderr=subprocess.DEVNULL)
    wait_until((tmp_path / "run" / "checkpoints" / "last.ckpt").exists)
    others = processes_of_group(process.pid) - {process.pid}
    assert len(others) >= 3  # the other process, and a worker of each
    process.kill()
    process.wait()
    wait_until(lambda: all(map(ended, others)))


def processes_of_group(group):
    found = set()
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if file.read_text().rpartition(")")[2].split()[2] == str(group):
                found.add(int(file.parent.name))
    return found


def kill_a_worker_at(monkeypatch, owner, name, n):
    """At the n-th call of a method, let a data worker die, as the kernel does where memory is short."""
    real, calls = getattr(owner, name), []

    def killing(*arguments, **options):
        calls.append(name)
        if len(calls) == n:
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
        return real(*arguments, **options)

    monkeypatch.setattr(owner, name, killing)


@pytest.mark.parametrize(
    ("owner", "name", "n"),
    [
        (KeepLast, "on_train_batch_start", 6),
        (AtomicCheckpointIO, "save_checkpoint", 2),
        (Objective, "validation_step", 1),
    ],
    ids=["training", "a save", "validation"],
)
def test_a_worker_that_dies_costs_no_step_and_is_one_sentence(
    command, whole_in_halves, tmp_path, monkeypatch, owner, name, n
):
    with monkeypatch.context() as patch:
        kill_a_worker_at(patch, owner, name, n)
        with pytest.raises(SystemExit) as stop:
            command("train", *RECIPE, *HALVES, "data.num_workers=2", "hydra.run.dir=run")
    step = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert re.fullmatch(
        rf"Error: A data worker died, perhaps for lack of memory; step {step} is saved in .*last.ckpt. "
        r"Resume with a smaller data.num_workers \(0: none\), or with more memory.",
        str(stop.value.code),
    )
    command("train", "run=run", "data.num_workers=0")
    assert metrics(tmp_path / "run") == whole_in_halves


def test_a_worker_that_dies_in_one_of_two_processes_stops_both_saved(command, whole, tmp_path):
    kill = ("+callbacks.kill._target_=worker_killer.KillWorker", "+callbacks.kill.step=5", "+callbacks.kill.rank=1")
    script = Path(sys.executable).with_name("igpt-train")
    result = subprocess.run(
        [script, *RECIPE, *DDP, *kill, "data.num_workers=1", "hydra.run.dir=run"], cwd=tmp_path, start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300,
    )  # fmt: skip
    assert result.returncode != 0
    assert re.findall("Error: (.*?);", result.stdout) == ["A data worker died, perhaps for lack of memory"]
    assert "Traceback" not in result.stdout
    assert 6 <= torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] < 24
    command("train", "run=run", "~callbacks.kill", "trainer.strategy=auto", "trainer.devices=1")
    for row, expected in zip(metrics(tmp_path / "run"), whole, strict=True):
        assert [float(x or 0) for x in row] == pytest.approx([float(x or 0) for x in expected], rel=1e-4)


def test_a_loss_that_is_no_number_in_one_of_two_processes_is_reported_by_the_main_one(tmp_path):
    bad = ("+callbacks.bad._target_=bad_loss.BadLoss", "+callbacks.bad.step=3", "+callbacks.bad.rank=1")
    script = Path(sys.executable).with_name("igpt-train")
    result = subprocess.run(
        [script, *RECIPE, *DDP, *bad, "trainer.log_every_n_steps=1", "hydra.run.dir=run"], cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)}, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300,
    )  # fmt: skip
    assert result.returncode == 1
    assert re.findall("Error: (.*?);", result.stdout) == ["The loss became NaN or infinite at step 3"]
    assert "Traceback" not in result.stdout
    assert "at step 3" in (tmp_path / "run" / "error.txt").read_text()
