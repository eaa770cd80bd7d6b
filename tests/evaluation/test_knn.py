import sys

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from igpt.errors import IgptError
from igpt.evaluation.knn import knn_predict


@pytest.fixture(scope="module")
def data():
    """Features (300, 8) and (100, 8) of five overlapping classes, with norms that the cosine must ignore."""
    rng = np.random.default_rng(0)
    labels = rng.integers(5, size=400)
    features = rng.normal(size=(5, 8))[labels] + rng.normal(size=(400, 8))
    features *= rng.uniform(0.1, 10, size=(400, 1))
    features, labels = torch.from_numpy(features).float(), torch.from_numpy(labels)
    return features[:300], labels[:300], features[300:], labels[300:]


@pytest.mark.parametrize("k", [1, 2, 5, 20, 300])
def test_classes_equal_scikit_learns(data, k):
    train, labels, queries, _ = data
    model = KNeighborsClassifier(k, metric="cosine").fit(train.numpy(), labels.numpy())
    predicted = knn_predict(train, labels, queries, k)
    assert predicted.dtype == torch.int64
    np.testing.assert_array_equal(predicted.numpy(), model.predict(queries.numpy()))


def test_ties_are_won_by_the_lowest_class_even_if_another_is_nearer():
    train = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.5, 0.5], [0.4, 0.6], [-1.0, 0.0]])
    labels = torch.tensor([3, 3, 2, 2, 0])
    query = torch.tensor([[1.0, 0.0]])
    assert knn_predict(train, labels, query, 2).tolist() == [3]
    assert knn_predict(train, labels, query, 3).tolist() == [3]
    assert knn_predict(train, labels, query, 4).tolist() == [2]


@pytest.mark.parametrize("k", [0, 301])
def test_k_out_of_range_is_refused(data, k):
    train, labels, queries, _ = data
    with pytest.raises(IgptError, match=f"k is {k}; with 300 training features it must be 1 to 300"):
        knn_predict(train, labels, queries, k)


def test_the_numbers_of_labels_and_features_must_agree(data):
    train, labels, queries, _ = data
    with pytest.raises(IgptError, match="300 training features need as many labels"):
        knn_predict(train, labels[1:], queries, 3)


def test_without_faiss_the_message_says_how_to_get_it(monkeypatch, data):
    monkeypatch.setitem(sys.modules, "faiss", None)  # importing it now raises ImportError
    train, labels, queries, _ = data
    with pytest.raises(IgptError, match=r"pip install 'igpt\[cpu\]'"):
        knn_predict(train, labels, queries, 3)
