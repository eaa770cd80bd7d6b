"""Interruptions of every kind: the losses of a run that was stopped or killed are bitwise those of one that was not."""

import csv
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from conftest import SMALL
from igpt.run_directory import find_checkpoint

STEPS = ("trainer.val_check_interval=50", "save_every=5", "sample_every=999", "callbacks=none")
BFLOAT16 = "trainer.precision=bf16-mixed"
OPTIONS = (
    "data.device_batch_size=8", "+callbacks.ema._target_=igpt.training.callbacks.weight_average.WeightAverage",
    "optim.schedule=wsd", "optim.momentum_warmup_steps=300", "optim.weight_decay=0.1", "optim.cautious_decay=true",
)  # fmt: skip

pytestmark = pytest.mark.usefixtures("terminal")


def losses(run):
    with open(run / "metrics.csv") as file:
        return {int(row["step"]): row["train/nats_per_token"] for row in csv.DictReader(file)}


def start(cwd, *arguments):
    """Start igpt-train in a process group of its own, as a shell does."""
    script = Path(sys.executable).with_name("igpt-train")
    return subprocess.Popen(
        [script, *arguments], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip


def wait_for(process, path, after=0.0):
    """Wait until a file is newer than the time `after`, or the process has ended."""
    deadline = time.monotonic() + 180
    while not (path.exists() and path.stat().st_mtime > after) and process.poll() is None:
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.02)


def last_checkpoint(run):
    """The one to resume from, which is the previous one if the kill came while the last one was renamed."""
    return torch.load(find_checkpoint(run, "last"), weights_only=True)


def step_of(run):
    return last_checkpoint(run)["global_step"]


def test_ctrl_c_keeps_a_checkpoint_and_the_run_resumes_exactly(command, tmp_path):
    run = tmp_path / "cut"
    process = start(tmp_path, *SMALL, *STEPS, "trainer.max_steps=400", "data.num_workers=2", "hydra.run.dir=cut")
    wait_for(process, run / "checkpoints" / "last.ckpt")
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert f"Resume with: igpt-train run={run}" in output
    stopped_at = step_of(run)
    assert 5 <= stopped_at < 400

    end = stopped_at + 60
    command("train", "run=cut", f"trainer.max_steps={end}", "optim.total_steps=400")
    whole = ("hydra.run.dir=whole", f"trainer.max_steps={end}", "optim.total_steps=400")
    command("train", *SMALL, *STEPS, *whole)
    assert len(losses(tmp_path / "whole")) == end
    assert losses(run) == losses(tmp_path / "whole")  # the file has all digits


@pytest.mark.parametrize(
    "recipe",
    [
        ("objective.random_order_steps=[9,400]", "data/augment=flip", "data.num_workers=0", *OPTIONS),
        ("objective=mlm", "objective.transforms=[colors]", "objective.stages=[[4,99]]", "data.num_workers=2", BFLOAT16),
    ],
    ids=["ar", "mlm in bfloat16"],
)
def test_a_run_killed_at_random_steps_resumes_exactly(command, tmp_path, recipe):
    dice = random.Random(0)
    run, steps = tmp_path / "killed", 600
    arguments = (*SMALL, *STEPS, *recipe, f"trainer.max_steps={steps}", "optim.total_steps=600")
    reached = []
    for attempt in range(3):
        started = time.time()
        process = start(tmp_path, *((*arguments, "hydra.run.dir=killed") if attempt == 0 else ("run=killed",)))
        wait_for(process, run / "checkpoints" / "last.ckpt", after=started)
        if attempt == 0:
            with pytest.raises(SystemExit, match=f"in use by process {process.pid} on {socket.gethostname()}"):
                command("train", "run=killed")
        else:
            time.sleep(dice.uniform(0, 1))
        process.kill()
        output, _ = process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL, output
        reached.append(step_of(run))
    assert 0 < reached[0] < reached[1] < reached[2] < steps, "the kills must come in the middle of training"

    end = f"trainer.max_steps={reached[-1] + 40}"
    command("train", "run=killed", end)
    command("train", *arguments, "hydra.run.dir=whole", end)
    assert len(losses(tmp_path / "whole")) == reached[-1] + 40
    assert losses(run) == losses(tmp_path / "whole")
    for name in ("state_dict", "averaged_weights"):
        ours, theirs = (last_checkpoint(folder).get(name, {}) for folder in (run, tmp_path / "whole"))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
