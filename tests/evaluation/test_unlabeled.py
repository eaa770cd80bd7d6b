"""Images without a label (-1) do not count in accuracies and probes."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from igpt.commands.build import number_of_classes
from igpt.data.datamodule import ImageDataModule
from igpt.data.sources import SPLITS, Chunk
from igpt.data.stream import Share
from igpt.errors import IgptError
from igpt.evaluation.classification import ClassificationEvaluator
from igpt.evaluation.evaluator import Evaluation
from igpt.evaluation.features import raw_pixels, stored_features
from igpt.evaluation.probe_scores import labeled_features
from igpt.model.config import TransformerConfig
from igpt.model.transformer import Transformer
from igpt.objectives.objective import Objective
from igpt.objectives.tasks import Autoregressive, Classification
from igpt.pretrained import Pretrained
from igpt.tokenizers import Gray

HIDDEN = np.arange(12) % 3 == 0  # a third of the images


@dataclass(frozen=True)
class Levels:
    """Alternately dark and bright images; a third of those in `partly`, and all in `without`, have no label."""

    partly: tuple[str, ...] = ("test",)
    without: tuple[str, ...] = ()
    resolution: int = 4
    name: str = "levels"
    classes: tuple[str, ...] = ("dark", "bright")

    def key(self):
        return {"partly": list(self.partly), "without": list(self.without)}

    def sizes(self):
        return dict.fromkeys(SPLITS, 12)

    def read(self, split, start, stop):
        labels = np.arange(start, stop) % 2
        images = np.broadcast_to((50 + 100 * labels).astype(np.uint8)[:, None, None, None], (len(labels), 4, 4, 3))
        hidden = HIDDEN[start:stop] & (split in self.partly) | (split in self.without)
        return Chunk(images, np.where(hidden, -1, labels))


class Perfect(Pretrained):
    """A classifier without errors."""

    def predict(self, batch):
        return (batch.tokens[:, 0] > 100).long()


def model():
    return Transformer(TransformerConfig(n_layer=1, n_head=1, n_embd=8, vocab_size=256, n_positions=16))


@pytest.fixture
def perfect():
    pretrained = Perfect(model(), Gray(), Autoregressive())
    pretrained.class_head, pretrained.classes = torch.nn.Linear(8, 2), ("dark", "bright")
    return pretrained


@pytest.fixture
def data(tmp_path):
    def make(**settings):
        module = ImageDataModule(
            Levels(**settings), batch_size=4, cache_dir=str(tmp_path), eval_batch_size=5, tokenizer=Gray()
        )
        module.prepare_data()
        module.setup()
        return module

    return make


def test_a_perfect_classifier_has_accuracy_one(perfect, data, caplog):
    evaluation = ClassificationEvaluator().evaluate(perfect, data(), "test")
    values = evaluation.values
    assert values["test/accuracy"] == 1
    assert values["test/accuracy_standard_error"] == 0
    assert values["test/labeled_images"] == 8
    assert "confusion" in evaluation.figures
    assert "4 of 12 test images have no label and are left out of the accuracy" in caplog.text


def test_without_any_label_there_is_no_accuracy(perfect, data, caplog):
    evaluation = ClassificationEvaluator().evaluate(perfect, data(without=("test",)), "test")
    assert evaluation == Evaluation()
    assert "12 of 12 test images have no label" in caplog.text


def test_images_without_labels_do_not_train_a_classifier(data):
    assert number_of_classes(data(partly=("validation", "test"))) == 2
    with pytest.raises(IgptError, match="4 of 12 training images of 'levels' have no label, so no classifier can be"):
        number_of_classes(data(partly=("train",)))
    with pytest.raises(IgptError, match="No validation image of 'levels' has a label"):
        number_of_classes(data(without=("validation",)))


def test_validation_accuracy_while_training_is_over_labeled_images(data):
    objective = Objective(model(), Classification(Autoregressive()), configure=lambda module: {}, n_classes=2)
    assert not objective.head.weight.any()  # so it always predicts "dark"
    for number, batch in enumerate(data(partly=("validation",)).token_batches("validation")):
        objective.validation_step(batch, number)
    # If images without a label counted, a third of the images would be errors.
    assert objective.validation_means["accuracy"].compute() == 0.5


def test_features_are_those_of_labeled_images(data, tmp_path):
    """Four of twelve images have no label; the others are bright if their label is 1."""
    module = data(partly=SPLITS)
    stored = stored_features(raw_pixels(module), module, "train", tmp_path / "features.npy")
    labeled = labeled_features("raw pixels", {"train": stored}, module.splits, ("dark", "bright"))
    assert stored.shape == (1, 8, 16)
    np.testing.assert_array_equal(stored[0, :, 0] > 0.4, labeled.labels["train"] == 1)
    assert len(labeled.groups["test"]) == 8


def test_the_stream_of_a_probe_has_each_labeled_image_once_an_epoch(data):
    module, cpu = data(partly=SPLITS), torch.device("cpu")
    for augment in (False, True):
        batches = module.labeled_stream(Share(4), 2, augment, cpu)
        for epoch in (1, 2):
            batch = [next(batches), next(batches)]
            assert torch.cat([b.epochs for b in batch]).tolist() == [epoch] * 8
            assert sorted(torch.cat([b.indices for b in batch]).tolist()) == np.flatnonzero(~HIDDEN).tolist()
            assert all((b.labels == b.indices % 2).all() for b in batch)
