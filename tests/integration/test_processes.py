"""Two processes do what one does: the same samples under the same masks in the same steps, and the same losses."""

import csv
import json
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
import torch

from conftest import SMALL

RECIPE = (
    *SMALL, "objective=mlm", "data/augment=flip", "trainer.max_steps=12", "trainer.val_check_interval=6",
    "sample_every=999", "callbacks=ema",
    "+callbacks.record._target_=recorder.RecordBatches", "+callbacks.record.folder=${run_dir}/seen",
)  # fmt: skip


def start(cwd, name, *arguments):
    """Run a command in processes of its own; what it printed."""
    script = Path(sys.executable).with_name(name)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    result = subprocess.run([script, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def train(cwd, name, *overrides):
    """Train in processes of their own; the run directory."""
    start(cwd, "igpt-train", *RECIPE, f"hydra.run.dir={name}", *overrides)
    return cwd / name


def seen(run):
    """What was seen at each step: (index, epoch, mask) of each sample, sorted."""
    steps = defaultdict(list)
    for file in (run / "seen").iterdir():
        for batch in map(json.loads, file.read_text().splitlines()):
            steps[batch["step"]] += zip(batch["indices"], batch["epochs"], batch["masks"], strict=True)
    return {step: sorted(samples) for step, samples in steps.items()}


def metrics(run):
    with open(run / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    names = (
        "train/nats_per_token",
        "val/nats_per_token",
        "val_ema/nats_per_token",
        "test/nats_per_token",
        "train/grad_norm",
    )
    return {(row["step"], name): float(row[name]) for row in rows for name in names if row[name]}


def test_two_processes_and_one_that_accumulates_are_the_same_training(tmp_path):
    one = train(tmp_path, "one", "data.device_batch_size=8")
    two = train(tmp_path, "two", "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")
    assert len(list((two / "seen").iterdir())) == 2
    assert seen(one) == seen(two)
    assert set(seen(one)) == set(range(12))
    assert all(len(samples) == 16 for samples in seen(one).values())
    assert metrics(two) == pytest.approx(metrics(one), rel=1e-5)
    assert len([name for _, name in metrics(one) if name.startswith("train/nats")]) == 12
    ours, theirs = (torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (two, one))
    torch.testing.assert_close(ours["averaged_weights"], theirs["averaged_weights"], atol=1e-5, rtol=1e-5)


def test_two_processes_and_one_train_the_same_probes(tmp_path, trained, command):
    run = shutil.copytree(trained, tmp_path / "run")
    settings = ("probe.solver=stream", "probe.epochs=1", "probe.learning_rates=[0.3,0.01]", "probe.attentive=true")
    common = (f"run={run}", "device=cpu", "logger=none", "untrained=false", *settings)
    states, tables = [], []
    for devices in (1, 2):
        printed = start(tmp_path, "igpt-probe", *common, f"devices={devices}")
        assert printed.count("Results are in") == 1
        states.append(torch.load(run / "probe" / "stream.pt", weights_only=True))
        tables.append((run / "probe" / "accuracy.csv").read_text())
        (run / "probe" / "stream.pt").unlink()
    one, two = states
    assert one["step"] == two["step"] > 5
    assert any(name.endswith("weight") and value.abs().max() > 0.1 for name, value in one["heads"].items())
    for name, value in one["heads"].items():
        torch.testing.assert_close(two["heads"][name], value, atol=1e-5, rtol=1e-5)
    assert tables[0] == tables[1]
