"""data.source.full_train=true: validation images that are trained on select nothing."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from conftest import SMALL

FOLDER = ("data=folder", "data.source.path=pics", "data.source.resolution=8", "data.source.full_train=true")


@pytest.fixture
def pics(tmp_path):
    rng = np.random.default_rng(0)
    for name, level in (("dark", 60), ("bright", 180)):
        (tmp_path / "pics" / name).mkdir(parents=True)
        for i in range(30):
            image = rng.integers(level - 60, level + 60, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(image).save(tmp_path / "pics" / name / f"{i}.png")


@pytest.fixture
def full(command, tmp_path, pics):
    """A run with full_train after four steps, with a validation every second one."""
    small = [argument for argument in SMALL if "data." not in argument]
    steps = ("trainer.max_steps=4", "trainer.val_check_interval=2", "data.batch_size=8", "sample_every=100")
    command("train", *small, *FOLDER, *steps, "data.num_workers=0", "image_class=null", "hydra.run.dir=run")
    return tmp_path / "run"


def test_no_job_of_a_sweep_is_called_the_best(command, pics):
    small = [argument for argument in SMALL if "data." not in argument]
    steps = ("trainer.max_steps=1", "trainer.val_check_interval=1", "data.batch_size=8", "callbacks=none")
    printed = command("train", "-m", *small, *FOLDER, *steps, "data.num_workers=0", "image_class=null", "seed=0")
    assert "1 of 1 job produced a result" in printed
    assert "The jobs are not ranked" in printed
    assert "Best:" not in printed
    search = refusal(command, "train", "-m", *FOLDER, "hydra/sweeper=tpe", "seed=0,1")
    assert "compares trials on validation images" in search


def refusal(command, *arguments):
    with pytest.raises(SystemExit) as error:
        command(*arguments)
    return str(error.value)


def test_no_selection_by_validation_images_that_are_trained_on(full, command):
    assert {path.name for path in (full / "checkpoints").glob("*.ckpt")} <= {"last.ckpt", "previous.ckpt"}
    assert "validation images are trained on" in (full / "train.log").read_text()
    summary = json.loads((full / "summary.json").read_text())
    assert summary["best_checkpoint"] == "checkpoints/last.ckpt"
    assert "no best checkpoint, so" in command("evaluate", f"run={full}")

    probe = ("probe", f"run={full}", "logger=none", "untrained=false")
    assert "cannot select one of 6 penalties" in refusal(command, *probe)
    one = "probe.penalties=[0.1]"
    assert "cannot select the layer" in refusal(command, *probe, one, "labels_per_class=[4]")
    assert "they select nothing" in command(*probe, one)
    with (full / "probe" / "accuracy.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4  # two layers, raw pixels, histogram
    assert not [name for name in rows[0] if "validation" in name]
    assert not [name for name in read(full) if name.startswith("probe/trained/")]
    command(*probe, one, "probe.layer=1", "labels_per_class=[4]", "subsets=2")
    assert read(full)["probe/trained/test_accuracy"] == float(rows[1]["test_accuracy"])


def read(run):
    return json.loads((run / "probe" / "summary.json").read_text())


@pytest.mark.parametrize("callbacks", ["early_stop", "online_probe"])
def test_what_judges_by_trained_images_is_refused(command, tmp_path, callbacks):
    message = refusal(command, "train", *SMALL, *FOLDER, f"callbacks={callbacks}", "hydra.run.dir=run")
    assert f"full_train is true; callbacks.{callbacks} uses the validation images" in message
    assert not (tmp_path / "run" / "checkpoints").exists()
