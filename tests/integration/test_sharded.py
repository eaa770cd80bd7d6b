"""Training with sharded weights is the same training, and leaves the same checkpoints."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import igpt
from conftest import SMALL
from igpt.metrics_file import read_rows

UNEVEN = ("data.drop_duplicates=false", "data.eval_batch_size=206")  # of 413 images, one process has a batch more
RECIPE = (
    *SMALL, *UNEVEN, "optim=adam", "model/parts=modern", "model.value_embedding=[1]", "model.n_layer=2",
    "trainer.gradient_clip_val=1", "trainer.val_check_interval=2", "sample_every=2",
    "callbacks=online_probe", "callbacks.online_probe.n_train=60", "callbacks.online_probe.n_validation=60",
    "+callbacks.norms._target_=igpt.training.callbacks.layer_norms.LayerNorms", "+callbacks.norms.every_n_steps=2",
    "+callbacks.details._target_=igpt.training.callbacks.loss_details.LossDetails",
    "+callbacks.details.directory=${run_dir}", "+callbacks.details.every_n_steps=2",
    "+callbacks.maps._target_=igpt.training.callbacks.attention_maps.AttentionMaps",
    "+callbacks.maps.directory=${run_dir}", "+callbacks.maps.every_n_steps=4",
)  # fmt: skip
SHARDED = ("trainer=fsdp", "trainer.accelerator=cpu", "trainer.devices=2")


def checkpoint(run, name="last"):
    return torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)


def observed(run):
    """The norms by layer and the losses by class of each step."""
    panels = ("gradients/", "updates/", "val_class/")
    found = {
        (row["step"], name): float(value)
        for row in read_rows(run / "metrics.csv")
        for name, value in row.items()
        if name.startswith(panels) and value
    }
    assert {name.partition("/")[0] + "/" for _, name in found} == set(panels)
    return found


def test_trains_in_two_processes_and_resumes_in_one(command, tmp_path):
    end = ("trainer.max_steps=4", "optim.total_steps=6")
    command("train", *RECIPE, *end, "hydra.run.dir=one")
    script = Path(sys.executable).with_name("igpt-train")
    arguments = [script, *RECIPE, *SHARDED, *end, "hydra.run.dir=two"]
    result = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr

    one, two = checkpoint(tmp_path / "one"), checkpoint(tmp_path / "two")
    torch.testing.assert_close(two["state_dict"], one["state_dict"], rtol=1e-4, atol=1e-6)
    moments, expected = (c["optimizer_states"][0]["state"] for c in (two, one))
    torch.testing.assert_close(moments, expected, rtol=1e-3, atol=1e-7)
    assert moments[1]["exp_avg_sq"].abs().max() > 0
    assert two["loss_statistics"] == pytest.approx(one["loss_statistics"], rel=1e-3)
    assert observed(tmp_path / "two") == pytest.approx(observed(tmp_path / "one"), rel=1e-3)
    assert (tmp_path / "two" / "attention" / "step_0000004.png").exists()
    assert {p.name for p in (tmp_path / "two" / "samples").iterdir()} == {"step_0000002.png", "step_0000004.png"}

    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    best = [igpt.load(tmp_path / name, device="cpu") for name in ("one", "two")]
    logits = [loaded.model(loaded.tokenizer.encode(torch.from_numpy(images))) for loaded in best]
    torch.testing.assert_close(logits[1], logits[0], rtol=1e-4, atol=1e-5)
    assert logits[0].std() > 1e-3
    likelihoods = [loaded.log_likelihood(images) for loaded in best]
    assert likelihoods[1] == pytest.approx(likelihoods[0], rel=1e-5)

    for name, trainer in (("one", ()), ("two", ("trainer.strategy=auto", "trainer.devices=1"))):
        command("train", f"run={name}", *trainer, "trainer.max_steps=6")
    one, two = checkpoint(tmp_path / "one"), checkpoint(tmp_path / "two")
    assert one["global_step"] == two["global_step"] == 6
    torch.testing.assert_close(two["state_dict"], one["state_dict"], rtol=1e-4, atol=1e-6)


def test_muon_needs_whole_matrices(command):
    with pytest.raises(SystemExit) as caught:
        command("train", *SMALL, *SHARDED)  # the recipe's optimizer is Muon
    assert "choose optim=adam" in caught.value.code
