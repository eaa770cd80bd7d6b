"""The commands from end to end, on a small model."""

import csv
import json
import math
import os
import subprocess
import sys
import time
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import igpt
from conftest import SMALL
from igpt.commands.open_run import data_of_run
from igpt.data.packed import open_packed, pack
from igpt.data.sources import SPLITS, EmojiSource
from tracking_server import w_and_b_server


@pytest.fixture
def test_images(tmp_path_factory):
    return open_packed(pack(EmojiSource(resolution=8), tmp_path_factory.getbasetemp() / "cache"))["test"].images


def test_training_leaves_everything_in_the_run_directory(trained):
    expected = {
        ".hydra/config.yaml", "checkpoints/last.ckpt", "checkpoints/best.ckpt", "palette.npz", "metrics.csv",
        "summary.json", "train.log", "samples/step_0000004.png", "samples/step_0000008.png",
        "completions/step_0000004.png", "completions/step_0000008.png", "figures/samples.png",
        "figures/completions.png", "figures/curve.png", "figures/palette.png", "figures/quantized.png",
    }  # fmt: skip
    found = {str(path.relative_to(trained)) for path in trained.rglob("*") if path.is_file()}
    assert expected <= found


def test_summary_and_checkpoint_agree(trained):
    summary = json.loads((trained / "summary.json").read_text())
    checkpoint = torch.load(trained / "checkpoints" / "last.ckpt", weights_only=True)
    assert summary["steps"] == checkpoint["global_step"] == 8
    assert summary["test/bits_per_token"] == pytest.approx(summary["test/nats_per_token"] / math.log(2))
    parameters = sum(p.numel() for name, p in checkpoint["state_dict"].items() if name.startswith("model."))
    assert summary["parameters"] == parameters
    assert summary["precision"] == "32-true"
    assert summary["test/nats_per_token"] < math.log(16)
    assert summary["best_checkpoint"] == "checkpoints/best.ckpt"


def test_evaluate_repeats_the_number_of_the_summary(trained, command):
    printed = command("evaluate", f"run={trained}")
    expected = json.loads((trained / "summary.json").read_text())["test/nats_per_token"]
    assert json.loads((trained / "evaluation" / "test.json").read_text())["test/nats_per_token"] == expected
    assert f"{expected:.4f}" in printed


def test_the_results_of_another_checkpoint_have_a_file_of_their_own(trained, command):
    command("evaluate", f"run={trained}", "checkpoint=last")
    by_name = (trained / "evaluation" / "test_last.json").read_text()
    command("evaluate", f"run={trained}/checkpoints/last.ckpt")
    assert (trained / "evaluation" / "test_last.json").read_text() == by_name
    command("evaluate", f"run={trained}/checkpoints/best.ckpt")
    best = json.loads((trained / "evaluation" / "test.json").read_text())
    assert best["test/nats_per_token"] == json.loads((trained / "summary.json").read_text())["test/nats_per_token"]


def test_likelihood_in_python_is_the_one_evaluated(trained, test_images):
    model = igpt.load(trained, device="cpu")
    nats = -model.log_likelihood(test_images) / 64
    summary = json.loads((trained / "summary.json").read_text())
    assert nats.mean() == pytest.approx(summary["test/nats_per_token"], rel=1e-5)
    rows = csv.DictReader((resources.files("igpt.data.emoji") / "emoji.csv").read_text().splitlines())
    groups = np.unique([row["base"] for row in rows if row["split"] == "test"], return_inverse=True)[1]
    sums, n = np.bincount(groups, nats - nats.mean()), groups.max() + 1
    error = (n / (n - 1) * (sums**2).sum()) ** 0.5 / len(nats)
    assert error == pytest.approx(summary["test/standard_error"], rel=1e-4)


def test_no_emoji_to_train_on_equals_a_held_out_one(trained):
    splits = data_of_run(str(trained), igpt.load(trained, device="cpu")).splits
    train, validation, test = ({image.tobytes() for image in splits[split].images} for split in SPLITS)
    assert not train & (validation | test)
    assert not validation & test


def test_sample_writes_grids_and_arrays(trained, command, tmp_path, test_images):
    printed = command("sample", f"run={trained}", "n=5", "n_images=3", "completions=2", "output=out", "image_class=0")
    assert "Results are in out" in printed
    arrays = np.load(tmp_path / "out" / "arrays.npz")
    np.testing.assert_array_equal(arrays["samples"], igpt.load(trained).sample(8, seed=0)[:5])
    assert arrays["completions"].shape == (3, 2, 8, 8, 3)
    palette = igpt.load(trained).tokenizer
    quantized = palette.decode(palette.encode(torch.from_numpy(arrays["originals"]))).numpy()
    for i in range(2):
        np.testing.assert_array_equal(arrays["completions"][:, i, :4], quantized[:, :4])  # the half that was given
    assert Image.open(tmp_path / "out" / "samples.png").width > 100


def test_sample_completes_image_files(trained, command, tmp_path):
    (tmp_path / "mine").mkdir()
    for name, color in (("a.png", "red"), ("b.jpg", "blue")):
        Image.new("RGB", (30, 20), color).save(tmp_path / "mine" / name)
    command(
        "sample",
        f"run={trained}",
        "n=0",
        "images=mine",
        "completions=1",
        "output=out",
        "given=0.25",
        "sampling.cache_dtype=bfloat16",
    )
    originals = np.load(tmp_path / "out" / "arrays.npz")["originals"]
    assert originals.shape == (2, 8, 8, 3)
    np.testing.assert_array_equal(originals[0, 4, 4], [255, 0, 0])


def test_palette_is_built_and_shown(command, tmp_path):
    printed = command("palette", "tokenizer.size=20", "data.source.resolution=8", "hydra.run.dir=out")
    assert "psnr_db" in printed
    assert {p.name for p in (tmp_path / "out").iterdir()} >= {
        "palette.npz", "palette.png", "quantized.png", "palette.log",
    }  # fmt: skip
    again = command("palette", "tokenizer.path=out/palette.npz", "data.source.resolution=8", "hydra.run.dir=again")
    fingerprint = next(line for line in printed.splitlines() if line.startswith("fingerprint"))
    assert fingerprint in again.splitlines()


def test_accumulation_and_workers_change_no_sample(command, tmp_path):
    for name, overrides in {
        "plain": (),
        "parts": ("data.device_batch_size=4", "data.num_workers=2"),
    }.items():
        command("train", *SMALL, f"hydra.run.dir={name}", "trainer.max_steps=3", "callbacks=none", *overrides)
    plain = torch.load(tmp_path / "plain/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    parts = torch.load(tmp_path / "parts/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    for name, weight in plain.items():
        torch.testing.assert_close(parts[name], weight, rtol=1e-3, atol=1e-4)


def test_parts_of_a_resumed_offline_run_are_uploaded_as_one_run(command, tmp_path, monkeypatch):
    arguments = [a for a in SMALL if a != "logger=none"]
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "home"))
    command("train", *arguments, "hydra.run.dir=run", "trainer.max_steps=3", "callbacks=none", "name=once")
    staged = [path.read_bytes() for path in (tmp_path / "home").rglob("*") if path.is_file()]
    assert all(content.startswith((b"\x89PNG", b'{"_type": "table"')) for content in staged)  # only tables are copied
    time.sleep(1.1)  # W&B names a part of a run by the second
    command("train", "run=run", "trainer.max_steps=5")
    (said,) = {line.split("`")[-2] for line in (tmp_path / "run/train.log").read_text().splitlines() if "sync" in line}
    assert said == f"wandb sync {tmp_path}/run/wandb/*run-*"
    run_id = (tmp_path / "run" / "tracking_id.txt").read_text().strip()
    assert "no API key is set" in (tmp_path / "run" / "train.log").read_text()
    assert len(list((tmp_path / "run" / "wandb").glob(f"offline-run-*-{run_id}/run-{run_id}.wandb"))) == 2
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    with w_and_b_server() as server:
        with_server(monkeypatch, server.url)
        subprocess.run(said, shell=True, check=True, capture_output=True, timeout=300)
    (run,) = server.runs.values()
    assert run.name == run_id
    assert {each.type for each in server.artifacts.versions} == {"dataset", "palette", "model", "run_table"}
    assert all(each.committed and each.made_by == run_id for each in server.artifacts.versions)
    assert [each.metadata["steps"] for each in server.artifacts.of_type("model")] == [{"last": 3}, {"last": 5}]
    assert run.settings["displayName"] == "once"
    steps = [row["trainer/global_step"] for row in run.history if "train/nats_per_token" in row]
    assert steps == [0, 1, 2, 3, 4]
    assert run.posted[0] == 0
    assert min(run.posted[1:]) > 0  # the second part begins behind the first one
    assert [row["_step"] for row in run.history] == list(range(len(run.history)))
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert {name: run.summary[name] for name in summary} == summary
    rows = [float(row["val/nats_per_token"]) for row in metrics(tmp_path / "run") if row["val/nats_per_token"]]
    assert summary["best/val/nats_per_token"] == min(rows)
    assert {"parameters", "palette_psnr_db", "seconds", "test/nats_per_token"} <= set(summary)


def metrics(run):
    with open(run / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def with_server(monkeypatch, url):
    """Let W&B find a server on this machine, and nothing else."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"BASE_URL": url, "API_KEY": "x" * 40, "ERROR_REPORTING": "false"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)


@pytest.mark.parametrize("name", ["train", "evaluate", "sample", "palette", "probe", "jobs"])
def test_help_is_a_short_page(name):
    script = Path(sys.executable).with_name(f"igpt-{name}")
    result = subprocess.run([script, "--help"], capture_output=True, text=True, check=True)
    assert result.stdout.startswith(f"igpt-{name}")
    assert len(result.stdout.splitlines()) < 60
