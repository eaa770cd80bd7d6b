"""Bad input gets one clear sentence and a status other than 0."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import igpt
from conftest import SMALL
from igpt.data.packed import packed_folder
from igpt.data.sources import EmojiSource
from igpt.errors import IgptError
from igpt.objectives.objective import Objective
from igpt.tokenizers import Palette


def message_of(command, name, *arguments):
    """The one sentence with which a command refuses."""
    with pytest.raises(SystemExit) as caught:
        command(name, *arguments)
    assert isinstance(caught.value.code, str)
    assert caught.value.code.startswith("Error: ")
    return caught.value.code


@pytest.fixture
def copy(trained, tmp_path):
    """A copy of the trained run, to be damaged."""
    return Path(shutil.copytree(trained, tmp_path / "copy"))


@pytest.mark.parametrize("name", ["train", "evaluate", "sample"])
def test_run_that_is_not_there(command, name):
    assert "There is no run at nowhere" in message_of(command, name, "run=nowhere")


@pytest.mark.parametrize("name", ["train", "evaluate", "sample"])
def test_run_directory_without_a_checkpoint(command, tmp_path, name):
    (tmp_path / "empty").mkdir()
    message = message_of(command, name, "run=empty")
    assert "empty has no checkpoint" in message
    assert "last.ckpt" in message


def test_damaged_checkpoint(command, copy):
    (copy / "checkpoints" / "best.ckpt").write_bytes(b"PK damaged")
    assert "best.ckpt is not a checkpoint of igpt that can be read" in message_of(command, "sample", f"run={copy}")


def test_checkpoint_and_palette_file_that_do_not_match(command, copy):
    ours = igpt.load(copy).tokenizer.fingerprint
    other = Palette(np.arange(48.0).reshape(16, 3))
    other.save(copy / "palette.npz")
    for name in ("evaluate", "sample", "train"):
        message = message_of(command, name, f"run={copy}")
        assert ours in message
        assert other.fingerprint in message


def test_missing_and_truncated_packed_data(command, copy, tmp_path, monkeypatch):
    monkeypatch.setenv("IGPT_CACHE", str(tmp_path / "cache"))
    command("evaluate", f"run={copy}")
    folder = packed_folder(EmojiSource(resolution=8), tmp_path / "cache", drop_duplicates_at=8)
    path = folder / "test.images.npy"
    path.write_bytes(path.read_bytes()[:-5])
    assert f"{path} has" in message_of(command, "evaluate", f"run={copy}")
    path.unlink()
    assert f"lacks {path}; delete the folder {folder}" in message_of(command, "train", f"run={copy}")


def test_output_directory_that_cannot_be_written(command, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    message = message_of(command, "train", *SMALL, "hydra.run.dir=file/run")
    assert "file/run" in message
    assert "choose a location that you can read and write" in message


def test_cache_that_cannot_be_written(command, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    message = message_of(command, "train", *SMALL, f"data.cache_dir={tmp_path}/file/cache")
    assert "cannot be written" in message
    assert "IGPT_CACHE" in message


def test_images_of_another_size_than_the_models(trained):
    with pytest.raises(IgptError, match=r"shape \(N, 8, 8, 3\); these are uint8 of shape \(1, 16, 16, 3\)"):
        igpt.load(trained).complete(np.zeros((1, 16, 16, 3), np.uint8))


def test_no_faiss(command, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)  # importing it now raises ImportError
    message = message_of(command, "train", *SMALL, "tokenizer.size=17")
    assert "pip install 'igpt[cpu]'" in message


def test_batch_larger_than_the_data_set(command):
    message = message_of(command, "train", *SMALL, "data.batch_size=4000", "trainer.max_steps=1")
    assert "data.batch_size is 4000, but emoji has only 3047 training images" in message


def test_batch_that_cannot_be_shared_out(command):
    message = message_of(
        command, "train", *SMALL, "data.batch_size=9", "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"
    )
    assert "cannot be divided evenly among 2 processes; choose a multiple of 2" in message


def test_loss_that_is_no_number(command, tmp_path, monkeypatch):
    real = Objective.training_step
    monkeypatch.setattr(
        Objective,
        "training_step",
        lambda self, batch, batch_idx: real(self, batch, batch_idx) * (np.nan if self.global_step == 6 else 1),
    )
    steps = ("trainer.max_steps=20", "trainer.log_every_n_steps=5", "save_every=1", "callbacks=none")
    message = message_of(command, "train", *SMALL, "hydra.run.dir=run", *steps)
    kept = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert f"The loss became NaN or infinite at step 7; the last good checkpoint is {kept}" in message
    assert torch.load(kept, weights_only=True)["global_step"] == 6
    assert np.isfinite(igpt.load(tmp_path / "run").log_likelihood(np.zeros((1, 8, 8, 3), np.uint8))).all()


def test_the_step_of_a_loss_that_is_no_number_with_micro_batches(command, monkeypatch):
    """The first of the two micro-batches of step 1."""
    real = Objective.training_step
    monkeypatch.setattr(
        Objective,
        "training_step",
        lambda self, batch, batch_idx: real(self, batch, batch_idx) * (np.nan if batch_idx == 0 else 1),
    )
    steps = ("trainer.max_steps=3", "trainer.log_every_n_steps=1", "callbacks=none", "data.device_batch_size=4")
    message = message_of(command, "train", *SMALL, *steps, "data.batch_size=8")
    assert "The loss became NaN or infinite at step 1; no step was saved" in message


def test_weights_that_are_no_numbers_are_not_saved(command, monkeypatch):
    """A finite loss can have gradients that are not: the derivative of sqrt at 0 is infinite."""
    real = Objective.training_step
    monkeypatch.setattr(
        Objective,
        "training_step",
        lambda self, batch, batch_idx: (loss := real(self, batch, batch_idx)) + (0 * loss).sqrt(),
    )
    message = message_of(command, "train", *SMALL, "save_every=1", "trainer.max_steps=20", "callbacks=none")
    assert "The weights became NaN or infinite at step 1; no step was saved" in message


def test_data_without_labels(command, copy):
    no_labels = "+data.source.classes=[]"
    objective = ("objective=classify", "objective.task=ar")
    assert "emoji' has no labels" in message_of(command, "train", *SMALL, *objective, no_labels)
    probe = ("data=emoji", "data.source.resolution=8", "logger=none")
    assert "emoji' has no labels" in message_of(command, "probe", f"run={copy}", *probe, no_labels)


def test_fewer_labels_than_asked_for(command, copy):
    message = message_of(command, "probe", f"run={copy}", "logger=none", "untrained=false", "labels_per_class=[100]")
    assert "class Activities has only" in message


def test_probing_a_run_whose_data_changed(command, copy):
    config = (copy / ".hydra" / "config.yaml").read_text()
    (copy / ".hydra" / "config.yaml").write_text(config.replace("resolution: 8", "resolution: 16"))
    message = message_of(command, "probe", f"run={copy}", "logger=none")
    assert "data.source.resolution was 8 and is 16" in message


@pytest.mark.parametrize("resolution", [16, 32])
def test_probing_on_images_of_another_size(command, copy, resolution):
    message = message_of(
        command, "probe", f"run={copy}", "logger=none", "data=emoji", f"data.source.resolution={resolution}"
    )
    assert f"is for images of 8x8, so data.source.resolution={resolution} cannot be used; leave it out" in message


def test_a_layer_that_is_not_there(command, copy):
    message = message_of(command, "probe", f"run={copy}", "logger=none", "probe.layer=2")
    assert "probe.layer is 2; the model's layers are 0 to 1" in message
    message = message_of(command, "probe", f"run={copy}", "logger=none", "probe.regions=9")
    assert "probe.regions is 9, but the images have 8x8 pixels; choose 1 to 8" in message


def test_masks_for_a_model_without_masks(command, copy):
    message = message_of(command, "probe", f"run={copy}", "logger=none", "masks=4")
    assert "masks is 4, but only masked models average over masks; set masks=0." in message


def test_probing_a_run_whose_palette_changed(command, copy):
    Palette(np.arange(48.0).reshape(16, 3)).save(copy / "palette.npz")
    assert "is the palette" in message_of(command, "probe", f"run={copy}", "logger=none")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model.n_layer=2", "has model.n_layer=1, but this configuration chooses model.n_layer=2; leave that"),
        ("data.source.resolution=16", "has data.source.resolution=8, but this configuration chooses data.source.reso"),
        ("objective=mlm", "is autoregressive, but the objective is for a model that is masked; choose objective=ar"),
    ],
)
def test_starting_from_a_model_of_another_shape(command, trained, change, message):
    assert message in message_of(command, "train", *SMALL, f"init_from={trained}", change)


def test_status_and_traceback_in_a_shell(tmp_path):
    script = str(Path(sys.executable).with_name("igpt-sample"))
    result = subprocess.run([script, "run=nowhere"], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.strip() == (
        "Error: There is no run at nowhere; give a run directory, a checkpoint file, an exported folder or the name of "
        "a model (emoji-nano)."
    )
    environment = {"PATH": "/usr/bin:/bin", "HYDRA_FULL_ERROR": "1", "HOME": str(tmp_path)}
    result = subprocess.run([script, "run=nowhere"], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert "Traceback" in result.stderr


def test_an_output_that_is_a_file(command, trained, tmp_path):
    (tmp_path / "notes.md").write_text("notes")
    assert "output is notes.md, which is a file" in message_of(command, "sample", f"run={trained}", "output=notes.md")


@pytest.mark.parametrize(
    ("run", "message"),
    [("metrics.csv", "metrics.csv is not a checkpoint file"), ("", "run= names nothing")],
)
def test_a_run_that_is_none(command, trained, run, message):
    assert message in message_of(command, "train", f"run={trained / run}" if run else "run=")


def test_a_plan_is_made_of_a_recipe(command, trained):
    assert "run is" in message_of(command, "plan", f"run={trained}")
