"""Labels of data sets of the Hub that are missing, new, or mixed."""

import numpy as np
import pytest

from igpt.data.sources import HubSource
from igpt.errors import IgptError

datasets = pytest.importorskip("datasets")

WORD, NUMBER, KIND = datasets.Value("string"), datasets.Value("int64"), datasets.ClassLabel(names=["cat", "dog"])


@pytest.fixture
def hub(monkeypatch):
    """A source of blank images with these labels per split; None for a split without the column."""
    blank = datasets.Image().encode_example(np.zeros((4, 4, 3), np.uint8))

    def split(labels, feature):
        features, columns = {"image": datasets.Image()}, {"image": [blank] * 4}
        if labels is not None:
            features["label"], columns["label"] = feature, labels
        return datasets.Dataset.from_dict(columns, datasets.Features(features))

    def make(feature, **labels):
        data = datasets.DatasetDict({name: split(each, feature) for name, each in labels.items()})
        monkeypatch.setattr(HubSource, "_load", lambda self: data)
        return HubSource("there", resolution=4, label_column="label", validation_share=0.25)

    return make


@pytest.mark.parametrize(
    ("feature", "train", "test", "expected"),
    [
        (KIND, [0, 1, 0, 1], [-1, -1, 1, 0], [-1, -1, 1, 0]),
        (KIND, [0, 1, 0, 1], [None, 1, None, 0], [-1, 1, -1, 0]),
        (NUMBER, [7, 3, -1, 7], [-1, 3, 7, None], [-1, 0, 1, -1]),
        (WORD, ["x", None, "y", "x"], [None, "y", "x", None], [-1, 1, 0, -1]),
        (WORD, ["x", "y", "y", "x"], None, [-1, -1, -1, -1]),
    ],
)
def test_a_missing_label_is_none_and_no_class(hub, feature, train, test, expected):
    source = hub(feature, train=train, test=test)
    assert len(source.classes) == 2
    assert source.read("test", 0, 4).labels.tolist() == expected


@pytest.mark.parametrize(("feature", "train", "new"), [(WORD, ["x", "y", "y", "x"], "z"), (NUMBER, [1, 2, 1, 2], 9)])
def test_a_class_that_the_training_images_lack_is_named(hub, feature, train, new):
    source = hub(feature, train=train, test=[train[0], new, train[1], new])
    with pytest.raises(IgptError, match=f"there has an image with the label '{new}', but no training image has it"):
        source.read("test", 0, 4)
