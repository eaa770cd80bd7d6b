"""Images without a label (-1) do not count in accuracies and probes."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from igpt.commands.build import number_of_classes
from igpt.data.datamodule import ImageDataModule
from igpt.data.packed import PackedImages
from igpt.data.sources import SPLITS, Chunk
from igpt.errors import IgptError
from igpt.evaluation.attentive import attentive_correct
from igpt.evaluation.classification import ClassificationEvaluator
from igpt.evaluation.evaluator import Evaluation
from igpt.evaluation.probe_scores import ProbeSettings, labeled_features, linear_rows
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


def test_a_linear_probe_ignores_images_without_labels():
    rng = np.random.default_rng(0)
    features = {split: rng.normal(size=(2, 12, 3)).astype(np.float32) for split in SPLITS}
    labels = np.arange(12) % 2
    numbers = np.arange(12)

    def rows(hidden, keep):
        splits = {s: PackedImages(numbers[keep], np.where(hidden, -1, labels)[keep], numbers[keep]) for s in SPLITS}
        kept = {split: values[:, keep] for split, values in features.items()}
        return linear_rows(
            labeled_features("random", kept, splits, ("even", "odd")), ProbeSettings(), torch.device("cpu")
        )

    assert rows(HIDDEN, slice(None)) == rows(HIDDEN, ~HIDDEN)


def test_an_attentive_probe_ignores_images_without_labels(perfect, data):
    hits = attentive_correct(perfect, data(partly=SPLITS), "test", n_classes=2, epochs=1)
    assert hits.shape == (2, 8)
