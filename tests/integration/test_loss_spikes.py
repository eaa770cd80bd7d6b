"""Alerts of loss spikes: their files name the images of the batch, and a resumed run finds the same."""

import csv
import json

import pytest
import torch

from conftest import SMALL
from igpt.training.loss_statistics import LossStatistics

RECIPE = (
    *SMALL, "trainer.val_check_interval=4", "sample_every=99", "optim.total_steps=11", "trainer.log_every_n_steps=3",
    "trainer.limit_val_batches=1", "optim.lr=1e-9", "optim.matrix_lr=1e-9", "data.device_batch_size=4",
    "callbacks.alerts.horizon=3", "callbacks.alerts.spike=1e-9",
    "+callbacks.record._target_=recorder.RecordBatches", "+callbacks.record.folder=${run_dir}/seen",
)  # fmt: skip


def files(run):
    return {path.name: path.read_text() for path in (run / "alerts").iterdir()}


def statistics(run):
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["loss_statistics"]


def test_spikes_name_their_images_and_a_resumed_run_finds_the_same(command, tmp_path, trained):
    start = f"init_from={trained}"  # whose losses go up and down
    command("train", *RECIPE, start, "trainer.max_steps=11", "hydra.run.dir=whole", "trainer.log_every_n_steps=1")
    command("train", *RECIPE, start, "trainer.max_steps=5", "hydra.run.dir=cut")
    command("train", "run=cut", "trainer.max_steps=11")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    with open(whole / "metrics.csv") as file:
        losses = [float(row["train/loss"]) for row in csv.DictReader(file)]
    expected = LossStatistics(1e-9, 3)
    found = [spike for step, loss in enumerate(losses) if (spike := expected.add(step, loss))]
    assert found
    assert statistics(whole) == statistics(cut)
    assert statistics(whole)["mean"] == pytest.approx(expected.mean, rel=1e-6)
    assert files(whole) == files(cut)
    assert sorted(files(whole)) == [f"spike_step_{spike.step:07d}.json" for spike in found]
    for run in (whole, cut):
        assert (run / "train.log").read_text().count("after a mean of") == len(found)

    spike = json.loads((whole / "alerts" / f"spike_step_{found[-1].step:07d}.json").read_text())
    assert spike["loss"] == pytest.approx(losses[found[-1].step], rel=1e-6)
    seen = [json.loads(line) for line in (whole / "seen" / "0.jsonl").read_text().splitlines()]
    for name in ("indices", "epochs"):
        assert spike[name] == [each for batch in seen if batch["step"] == spike["step"] for each in batch[name]]
