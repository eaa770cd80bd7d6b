"""The evaluators are a list in the configuration, to which a user's own is added without a change of igpt."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import igpt
from igpt.commands.open_run import data_of_run
from igpt.data.packed import PackedImages
from igpt.evaluation.classification import confusion_matrix, confusions
from igpt.evaluation.final_report import result_sentences
from igpt.evaluation.likelihood import LikelihoodEvaluator, most_and_least_likely
from igpt.files import write_json

MINE = """
from PIL import Image
from igpt.evaluation.evaluator import Evaluation, Evaluator

class Brightness(Evaluator):
    def __init__(self, scale=1.0):
        self.scale = scale

    def evaluate(self, pretrained, data, split):
        images = data.splits[split].images
        return Evaluation({f"{split}/brightness": self.scale * images.mean()}, {"first": Image.fromarray(images[0])})
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A module of the user's own, which no installation of igpt knows."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "brightness_of_images.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path / "mine")
    return "brightness_of_images.Brightness"


def brightness(run, split):
    return data_of_run(str(run), igpt.load(run, device="cpu")).splits[split].images.astype(np.float64).mean()


def test_an_evaluator_of_the_users_own_is_in_the_final_report(trained, command, tmp_path, mine):
    shutil.copytree(trained, tmp_path / "run")
    before = json.loads((trained / "summary.json").read_text())
    command("train", "run=run", f"+evaluators.mine._target_={mine}", "+evaluators.mine.scale=2")
    after = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert after.pop("test/brightness") == pytest.approx(2 * brightness(trained, "test"))
    after["seconds"] = before["seconds"]  # the only value that depends on the clock
    assert after == before
    assert Image.open(tmp_path / "run" / "figures" / "first.png").size == (8, 8)
    last = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    assert "test/brightness" in last[0]
    assert len(last) == 1 + 8  # as many rows as before


def test_a_configuration_folder_of_the_users_own_may_name_evaluators(trained, command, tmp_path, mine):
    (tmp_path / "conf" / "evaluators").mkdir(parents=True)
    (tmp_path / "conf" / "evaluators" / "bright.yaml").write_text(f"mine:\n  _target_: {mine}\n")
    printed = command("evaluate", "--config-dir=conf", f"run={trained}", "split=validation", "evaluators=bright")
    expected = brightness(trained, "validation")
    assert f"validation/brightness        {expected:.4f}" in printed
    assert "nats_per_token" not in printed
    assert set(json.loads((trained / "evaluation" / "validation.json").read_text())) == {"validation/brightness"}


def test_a_mistake_in_an_evaluator_is_one_sentence(trained, command):
    with pytest.raises(SystemExit, match=r"evaluators.mine._target_ is nowhere.Mine; it cannot be imported"):
        command("evaluate", f"run={trained}", "+evaluators.mine._target_=nowhere.Mine")


@pytest.mark.parametrize(
    ("part", "base"),
    [
        ("evaluators", "igpt.evaluation.evaluator.Evaluator"),
        ("callbacks", "pytorch_lightning.callbacks.callback.Callback"),
        ("logger", "pytorch_lightning.loggers.logger.Logger"),
    ],
)
def test_a_part_of_another_class_is_refused_before_training(trained, command, tmp_path, part, base):
    shutil.copytree(trained, tmp_path / "run")
    with pytest.raises(SystemExit) as caught:
        command("train", "run=run", "trainer.max_steps=9", f"+{part}.mine._target_=collections.Counter")
    assert f"{part}.mine._target_ is collections.Counter, which makes no {base}; derive" in caught.value.code
    assert not (tmp_path / "run" / ".hydra" / "changes.yaml").exists()


def test_the_likelihood_is_that_of_all_images(trained):
    pretrained = igpt.load(trained, device="cpu")
    data = data_of_run(str(trained), pretrained)
    values = LikelihoodEvaluator().evaluate(pretrained, data, "test").values
    nats = -pretrained.log_likelihood(data.splits["test"].images) / 64
    assert values["test/nats_per_token"] == pytest.approx(nats.mean(), rel=1e-5)
    assert values["test/bits_per_token"] == pytest.approx(nats.mean() / math.log(2), rel=1e-5)
    assert values["test/images"] == len(nats)
    assert values["vocab_size"] == 16


def test_sentences_of_the_report_need_all_their_values():
    own = {"test/accuracy": 0.5, "test/nats_per_token": 2.0, "test/bits_per_dimension": 3.0}  # by a user's evaluators
    assert list(result_sentences(own)) == ["Test: 3.0000 bits per dimension"]
    (sentence,) = result_sentences({"test/accuracy": 0.5, "test/accuracy_standard_error": 0.01})
    assert sentence == "Test: accuracy 0.5000, standard error 0.0100"


def test_scalars_of_numpy_and_torch_are_written_as_numbers(tmp_path):
    write_json({"a": np.float32(0.5), "b": np.int64(3), "c": torch.tensor(True), "d": "text"}, tmp_path / "values.json")
    assert json.loads((tmp_path / "values.json").read_text()) == {"a": 0.5, "b": 3, "c": True, "d": "text"}


def test_confusion_matrix_counts_each_image_once():
    labels, predicted = np.array([0, 0, 1, 2, 2, 2]), np.array([0, 1, 1, 0, 2, 2])
    assert confusion_matrix(labels, predicted, 3).tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 2]]


def test_the_most_and_the_least_likely_images_with_their_class_and_nats():
    rng = np.random.default_rng(0)
    nats = rng.permutation(10) + 0.5
    pixels = np.arange(10, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    images = PackedImages(pixels, np.where(nats < 2, -1, 1), np.arange(10))
    table = most_and_least_likely(nats, images, ["cat", "dog"], n=3)
    assert [row["nats_per_token"] for row in table.rows] == [0.5, 1.5, 2.5, 7.5, 8.5, 9.5]
    assert [row["class"] for row in table.rows] == ["", "", *["dog"] * 4]
    for row, image in zip(table.rows, table.images, strict=True):
        assert nats[row["image"]] == row["nats_per_token"]
        assert (image == row["image"]).all()
    assert len(most_and_least_likely(nats, images, ["cat", "dog"], n=5).rows) == 10
    assert len(most_and_least_likely(nats, images, ["cat", "dog"], n=9).rows) == 10


def test_the_rows_of_a_confusion_matrix_are_its_counts():
    matrix = np.array([[2, 0], [1, 4]])
    rows = confusions(matrix, ["cat", "dog"]).rows
    assert [tuple(row.values()) for row in rows] == [("cat", "cat", 2), ("dog", "cat", 1), ("dog", "dog", 4)]
