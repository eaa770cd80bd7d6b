"""Two processes do what one does: the same samples under the same masks in the same steps, and the same losses."""

import csv
import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from conftest import SMALL

RECIPE = (
    *SMALL, "objective=mlm", "data/augment=flip", "trainer.max_steps=12", "trainer.val_check_interval=6",
    "sample_every=999", "+callbacks.record._target_=recorder.RecordBatches", "+callbacks.record.folder=${run_dir}/seen",
)  # fmt: skip


def train(cwd, name, *overrides):
    """Train in processes of their own; the run directory."""
    script = Path(sys.executable).with_name("igpt-train")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    command = [script, *RECIPE, f"hydra.run.dir={name}", *overrides]
    result = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
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
    names = ("train/nats_per_token", "val/nats_per_token", "test/nats_per_token", "train/grad_norm")
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
