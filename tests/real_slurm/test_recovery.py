"""Damaged checkpoints and full disks. These tests need no cluster, and run with all other tests."""

import csv
import shutil
import subprocess
import zipfile

import pytest
import torch

from conftest import SMALL, run_command
from igpt.checkpoint import is_whole, read_last
from igpt.errors import IgptError
from igpt.run_directory import RunDirectory, find_checkpoint

STEPS = (*SMALL, "trainer.val_check_interval=50", "callbacks=none", "sample_every=999", "optim.total_steps=40")


def losses(run):
    with open(run / "metrics.csv") as file:
        return {int(row["step"]): row["train/nats_per_token"] for row in csv.DictReader(file)}


def cut_off(path):
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size // 2)


def flip_a_bit(path):
    """In the largest part of the file. Between the parts there are bytes that nobody reads."""
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda part: part.file_size)
    with open(path, "r+b") as file:
        file.seek(largest.header_offset + largest.file_size // 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 16]))


def empty(path):
    path.write_bytes(b"")


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that stopped at step 20 and saved at steps 16 and 20, and the losses of an uninterrupted one to step 30."""
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IGPT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        run_command("train", *STEPS, "save_every=8", "trainer.max_steps=20", "hydra.run.dir=run", cwd=folder)
        run_command("train", *STEPS, "trainer.max_steps=30", "hydra.run.dir=whole", cwd=folder)
    return folder


@pytest.mark.parametrize("damage", [cut_off, flip_a_bit, empty])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(command, stopped, tmp_path, damage):
    shutil.copytree(stopped / "run", tmp_path / "run")
    run = RunDirectory(tmp_path / "run")
    damage(run.last)
    command("train", "run=run", "trainer.max_steps=30")
    log = (run.path / "train.log").read_text()
    assert "last.ckpt was damaged (it is now damaged.ckpt); resuming from the checkpoint before it" in log
    assert losses(run.path) == losses(stopped / "whole")


def test_a_kill_between_two_renames_costs_nothing(stopped, tmp_path):
    shutil.copytree(stopped / "run", tmp_path / "run")
    run = RunDirectory(tmp_path / "run")
    run.last.unlink()
    assert find_checkpoint(run.path, "last") == run.previous
    read_last(run)
    assert torch.load(run.last, weights_only=True)["global_step"] == 16


def test_two_damaged_checkpoints_are_one_sentence(stopped, tmp_path):
    shutil.copytree(stopped / "run", tmp_path / "run")
    run = RunDirectory(tmp_path / "run")
    flip_a_bit(run.last)
    cut_off(run.previous)
    with pytest.raises(IgptError, match="last.ckpt is damaged, and there is no whole previous.ckpt"):
        read_last(run)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True, text=True)
    if mount.returncode:
        pytest.skip(f"no small disk can be mounted here: {mount.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_stops_training_with_one_sentence_and_leaves_the_last_checkpoint(
    stopped, small_disk, tmp_path, monkeypatch
):
    shutil.copytree(stopped / "run", small_disk / "run", ignore=shutil.ignore_patterns("figures"))
    run = RunDirectory(small_disk / "run")
    room = shutil.disk_usage(small_disk).free - 2**16  # the rest is enough for a log, not for a checkpoint
    (small_disk / "filler").write_bytes(bytes(room))
    with pytest.raises(SystemExit) as stop:
        run_command("train", f"run={run.path}", "trainer.max_steps=30", cwd=tmp_path)
    assert f"The disk of {run.path / 'checkpoints'} is full" in str(stop.value)
    assert is_whole(run.last)
    assert torch.load(run.last, weights_only=True)["global_step"] == 20
