"""Values that only the data, the machine or the run can judge are judged before anything is trained or sampled."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import SMALL
from igpt.configuration.class_names import class_number
from igpt.data.datamodule import ImageDataModule
from igpt.data.sources import EmojiSource
from igpt.pretrained import Pretrained

needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="has the device")


@pytest.fixture
def refused(command, monkeypatch):
    """The sentence with which a command refuses, before any data are packed or opened."""

    def run(name, *arguments):
        if name == "train":
            monkeypatch.setattr(ImageDataModule, "prepare_data", lambda self: pytest.fail("data were packed"))
        monkeypatch.setattr(Pretrained, "sample", lambda self, *args, **options: pytest.fail("images were sampled"))
        with pytest.raises(SystemExit) as caught:
            command(name, *arguments)
        assert "\n" not in caught.value.code
        return caught.value.code

    return run


@pytest.fixture
def images(tmp_path):
    """Three folders of one-color images."""
    for name in "abc":
        (tmp_path / "pics" / name).mkdir(parents=True)
        for i in range(20):
            color = np.random.default_rng([ord(name), i]).integers(0, 256, 3, np.uint8)
            Image.fromarray(np.tile(color, (8, 8, 1))).save(tmp_path / "pics" / name / f"{i}.png")
    return "pics"


@pytest.mark.parametrize(("change", "sentence"), [
    ("image_class=99", "image_class is 99, which is not one of the 9 classes"),
    ("image_class=Flag", "image_class is Flag, which is not one of the 9 classes; did you mean Flags?"),
    ("callbacks.sample.image_class=Flag", "callbacks.sample.image_class is Flag"),
    pytest.param("trainer.accelerator=gpu", "trainer.accelerator=gpu", marks=needs_no_gpu),
])  # fmt: skip
def test_a_class_or_a_device_that_does_not_exist_is_refused_and_no_run_stays(refused, tmp_path, change, sentence):
    assert sentence in refused("train", *SMALL, change)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [
    ("train", *SMALL, "data=folder", "image_class=null"),
    ("train", *SMALL, "data=folder", "image_class=null", "name=../inner/x", "hydra.job.chdir=true"),
    ("palette", "data=folder"),
])  # fmt: skip
def test_data_that_do_not_exist_are_refused_and_no_run_stays(refused, tmp_path, arguments):
    assert "There is no folder" in refused(*arguments, f"data.source.path={tmp_path / 'nowhere'}")
    assert list(tmp_path.iterdir()) == []


def test_a_refused_command_leaves_a_used_directory_as_it_was(refused, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "train.log").write_text("an earlier attempt\n")
    assert "image_class is 99" in refused("train", *SMALL, "image_class=99", "hydra.run.dir=run")
    assert "an earlier attempt" in (tmp_path / "run" / "train.log").read_text()


@pytest.mark.parametrize(("changes", "sentence"), [
    ((), "image_class is 0, but the data have no classes; set image_class=null"),
    (("image_class=null", "objective=classify", "objective.task=ar"), "no labels, which objective=classify needs"),
    (("image_class=null", "callbacks=online_probe"), "no labels, which an online probe needs"),
])  # fmt: skip
def test_data_without_classes(refused, images, changes, sentence):
    folder = ("data=folder", f"data.source.path={images}", "data.source.labels=false")
    assert sentence in refused("train", *SMALL, *folder, *changes)


def test_a_class_without_images_to_show(command, images, tmp_path):
    for split in ("train", "validation", "test"):
        for name in ("a", "b"):
            (tmp_path / "split" / split / name).mkdir(parents=True)
            for i, image in enumerate((tmp_path / images / name).iterdir()):
                if (split, name) != ("test", "b"):
                    image_of_split = Image.open(image).rotate(0)
                    image_of_split.putpixel((0, 0), (i, len(split), ord(name)))
                    image_of_split.save(tmp_path / "split" / split / name / image.name)
    with pytest.raises(SystemExit) as caught:
        command("train", *SMALL, "data=folder", "data.source.path=split", "data.batch_size=4", "image_class=b")
    assert "image_class is b, but the test split has no image of that class" in caught.value.code


def test_images_that_are_not_there_are_refused_before_sampling(refused, trained):
    assert "There is no image at nowhere.png" in refused("sample", f"run={trained}", "images=[nowhere.png]")
    assert "did you mean Flags" in refused("sample", f"run={trained}", "image_class=Flag")


@needs_no_gpu
@pytest.mark.parametrize("name", ["sample", "evaluate", "probe"])
def test_a_device_that_is_not_there_is_refused(refused, trained, name):
    assert "device is 'cuda', which cannot be used here" in refused(name, f"run={trained}", "device=cuda")


def test_a_probe_that_asks_for_more_than_there_is(refused, trained, monkeypatch):
    monkeypatch.setattr("igpt.commands.probe.feature_kinds", lambda *args: pytest.fail("features were calculated"))
    message = refused("probe", f"run={trained}", "logger=none", "labels_per_class=[4,5000]")
    assert "labels_per_class asks for 5000 images per class, but class Activities has only" in message
    assert "probe.neighbors is 5000" in refused("probe", f"run={trained}", "logger=none", "probe.neighbors=5000")


def test_a_probe_of_processes_that_would_not_share_the_work(refused, trained, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")  # as torchrun sets it
    message = refused("probe", f"run={trained}", "logger=none", "probe.solver=stream")
    assert "2 processes were started, but devices=1 num_nodes=1 are 1; set devices to" in message
    assert "2 processes were started" in refused("probe", f"run={trained}", "logger=none")
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")  # as srun sets it
    assert "2 processes were started" in refused("probe", f"run={trained}", "logger=none")


def test_a_probe_on_augmented_images_without_an_augmentation(refused, trained):
    settings = ("logger=none", "probe.solver=stream", "probe.augment=true")
    message = refused("probe", f"run={trained}", "data=emoji", "data/augment=none", *settings)
    assert "probe.augment is true, but data.augment is none" in message


def test_classes_by_name_and_nothing_but_metrics(command, tmp_path):
    few = ("trainer.max_steps=2", "trainer.val_check_interval=1")
    command("train", *SMALL, "hydra.run.dir=named", *few, "image_class=Flags", "sample_every=null")
    assert not (tmp_path / "named" / "completions").exists()
    assert (tmp_path / "named" / "figures" / "completions.png").exists()
    command("train", *SMALL, "hydra.run.dir=bare", *few, "callbacks=null", "logger=null", "save_every=null")
    assert {p.name for p in (tmp_path / "bare" / "checkpoints").glob("*.ckpt")} == {"last.ckpt"}
    command("sample", "run=named", "image_class=Flags", "n=0", "completions=1", "n_images=1", "output=out")
    assert (tmp_path / "out" / "completions.png").exists()


def test_a_class_by_its_name_is_the_one_by_its_number():
    classes = EmojiSource().classes
    for number, name in enumerate(classes):
        assert class_number(name, classes, "image_class") == class_number(number, classes, "image_class") == number
    assert class_number(None, classes, "image_class") is None
    assert class_number(2024, ("2023", "2024"), "image_class") == 1  # a name that looks like a number


def test_an_unknown_device_takes_no_time_to_refuse(command, monkeypatch):
    """The schema needs neither torch nor Lightning."""
    for name in ("torch", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, None)  # importing it now raises ImportError
    with pytest.raises(SystemExit) as caught:
        command("plan", "device=h1000")
    assert "device is h1000" in caught.value.code


def test_settings_of_sampling_that_do_not_apply_to_the_model(command, refused, trained):
    sentence = "sampling.passes is 4; it applies to masked models only, and this is an autoregressive model"
    assert sentence in refused("sample", f"run={trained}", "sampling.passes=4")
    with pytest.raises(SystemExit) as caught:
        command("train", *SMALL, "objective=classify", f"init_from={trained}", "sampling.passes=4")
    assert sentence in caught.value.code
