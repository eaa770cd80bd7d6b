import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch.nn import functional as F

from igpt.errors import IgptError
from igpt.evaluation import lbfgs, linear_probe
from igpt.evaluation.linear_probe import (
    LinearProbe,
    curvature_pays,
    fit_lbfgs,
    fit_one_by_one,
    low_label_subset,
    standardize,
)

L, N, C, K = 3, 400, 12, 5
PENALTIES = [0.003, 0.03, 0.3]


def make_data(n=N, n_classes=K, seed=0):
    """Correlated features (L, n, C) with a scale and a mean per channel; the classes overlap less in later layers."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(n_classes), rng.integers(n_classes, size=n - n_classes)])
    centers = np.random.default_rng(99).normal(size=(n_classes, C))
    signal = np.array([0.2, 0.5, 1.0])[:, None, None]
    features = signal * centers[labels] + rng.normal(size=(L, n, C))
    mixed = features @ np.random.default_rng(98).normal(size=(L, C, C)) / 3
    return torch.from_numpy(mixed * np.logspace(-1, 1, C) + np.linspace(-3, 3, C)), torch.from_numpy(labels)


@pytest.fixture(scope="module")
def data():
    return make_data()


@pytest.fixture(scope="module")
def standardized(data):
    return standardize(data[0])[0], data[1]


def objective(features, labels, weight, bias, penalty):
    """The loss of one layer, for arrays (N, C), (N,), (C, K), (K,)."""
    logits = features.astype(np.float64) @ weight + bias
    nats = logsumexp(logits, axis=1) - logits[np.arange(len(labels)), labels]
    return nats.mean() + penalty / 2 * (weight.astype(np.float64) ** 2).sum()


def scikit_learn(features, labels, penalty):
    model = LogisticRegression(C=1 / (penalty * len(labels)), tol=1e-9, max_iter=10_000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn cannot always reach 1e-9
        return model.fit(features, labels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("raw", [False, True])
def test_lbfgs_equals_scikit_learn(raw, dtype, data, standardized):
    features, labels = data if raw else standardized
    features = features.to(dtype)
    probes = fit_lbfgs(features, labels, K, PENALTIES)
    assert len(probes) == len(PENALTIES)
    for penalty, probe in zip(PENALTIES, probes, strict=True):
        predictions = probe.predict(features).numpy()
        for layer, x in enumerate(features.double().numpy()):
            theirs = scikit_learn(x, labels.numpy(), penalty)
            ours = (probe.weight[layer].numpy(), probe.bias[layer].numpy())
            value = objective(x, labels.numpy(), *ours, penalty)
            best = objective(x, labels.numpy(), theirs.coef_.T, theirs.intercept_, penalty)
            assert value == pytest.approx(best, rel=1e-4)
            assert (predictions[layer] == theirs.predict(x)).mean() >= 0.995


def test_two_classes_equal_scikit_learn_at_twice_the_penalty(standardized):
    features, labels = standardized[0], (standardized[1] > 1).long()
    (probe,) = fit_lbfgs(features, labels, 2, [0.02], tolerance=1e-8)
    theirs = scikit_learn(features[2].numpy(), labels.numpy(), 0.01)
    difference = probe.weight[2, :, 1] - probe.weight[2, :, 0]
    np.testing.assert_allclose(difference.numpy(), theirs.coef_[0], atol=1e-5)


def test_layers_and_penalties_together_equal_each_alone(standardized):
    features, labels = standardized
    together = fit_lbfgs(features, labels, K, torch.tensor(PENALTIES), tolerance=1e-8)
    for penalty, probe in zip(PENALTIES, together, strict=True):
        for layer in range(L):
            (alone,) = fit_lbfgs(features[layer : layer + 1], labels, K, [penalty], tolerance=1e-8)
            torch.testing.assert_close(probe.weight[layer], alone.weight[0], atol=1e-5, rtol=0)
            torch.testing.assert_close(probe.bias[layer], alone.bias[0], atol=1e-5, rtol=0)


@settings(deadline=None, max_examples=10)
@given(shift=st.lists(st.floats(-5, 5), min_size=C, max_size=C), classes=st.permutations(range(K)))
def test_weights_do_not_depend_on_an_offset_or_the_order_of_the_classes(shift, classes):
    """The bias, which is not penalized, compensates an offset."""
    features, labels = make_data(n=60)
    (features,) = standardize(features)
    offset, renamed = torch.tensor(shift, dtype=torch.float64), torch.tensor(classes)
    (probe,) = fit_lbfgs(features, labels, K, [0.1], tolerance=1e-9)
    (other,) = fit_lbfgs(features + offset, renamed[labels], K, [0.1], tolerance=1e-9)
    torch.testing.assert_close(other.weight[..., renamed], probe.weight, atol=1e-6, rtol=0)
    expected = probe.bias - torch.einsum("c,lck->lk", offset, probe.weight)
    torch.testing.assert_close(other.bias[..., renamed], expected, atol=1e-5, rtol=0)


def test_a_constant_channel_does_not_matter(standardized):
    features, labels = standardized[0].clone(), standardized[1]
    features[:, :, 3] = 0
    features[:, :, 5] = features[:, :, 4]  # singular second moments, also without a penalty
    kept = features[:, :, [c for c in range(C) if c not in (3, 5)]]
    (probe,) = fit_lbfgs(features, labels, K, [0.0], tolerance=1e-7)
    (without,) = fit_lbfgs(kept, labels, K, [0.0], tolerance=1e-7)
    torch.testing.assert_close(nats(probe, features, labels), nats(without, kept, labels), atol=1e-6, rtol=0)


def test_samples_may_be_visited_in_parts(standardized, monkeypatch):
    (whole,) = fit_lbfgs(*standardized, K, [0.1], tolerance=1e-9)
    monkeypatch.setattr(linear_probe, "LOGITS_AT_ONCE", 7 * L * K)  # seven samples at a time
    (parts,) = fit_lbfgs(*standardized, K, [0.1], tolerance=1e-9)
    torch.testing.assert_close(parts.weight, whole.weight, atol=1e-7, rtol=0)
    torch.testing.assert_close(parts.bias, whole.bias, atol=1e-7, rtol=0)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_probes_can_be_fitted_without_gradient_mode(mode, standardized):
    """Features are computed in validation loops, where gradients are disabled."""
    (expected,) = fit_lbfgs(*standardized, K, torch.tensor([0.1]))
    with mode():
        features, labels, penalties = standardized[0] * 1, standardized[1] * 1, torch.tensor([0.1])
        (inside,) = fit_lbfgs(features, labels, K, penalties)
    (outside,) = fit_lbfgs(features, labels, K, penalties)
    assert torch.equal(inside.weight, expected.weight)
    assert torch.equal(outside.weight, expected.weight)


def nats(probe, features, labels):
    """Mean cross-entropy (L,)."""
    logits = features @ probe.weight + probe.bias[:, None]
    return torch.stack([F.cross_entropy(layer, labels) for layer in logits])


def test_constant_features_give_the_class_frequencies(standardized):
    features, labels = torch.zeros(1, N, C), standardized[1]
    (probe,) = fit_lbfgs(features, labels, K, [0.0], tolerance=1e-6)
    assert (probe.weight == 0).all()
    torch.testing.assert_close(probe.bias[0].softmax(0), labels.bincount() / N, atol=1e-5, rtol=0)


def test_standardized_features_equal_scikit_learns(data):
    train, valid = data[0], make_data(n=50, seed=1)[0]
    ours = standardize(train, valid)
    for layer in range(L):
        scaler = StandardScaler().fit(train[layer].numpy())
        np.testing.assert_allclose(ours[0][layer].numpy(), scaler.transform(train[layer].numpy()), atol=1e-10)
        np.testing.assert_allclose(ours[1][layer].numpy(), scaler.transform(valid[layer].numpy()), atol=1e-10)


def test_a_constant_channel_is_only_centered(data):
    train, valid = data[0].float(), data[0].float()
    train[1, :, 4] = 0.1  # its mean in float32 is not exactly 0.1
    ours, others = standardize(train, valid)
    assert ours[1, :, 4].abs().max() < 1e-6
    torch.testing.assert_close(others[1, :, 4], valid[1, :, 4] - 0.1)


def test_accuracy_is_the_share_of_correct_predictions():
    """Two classes in one dimension: layer 0 splits at 0, layer 1 at 2."""
    weight = torch.tensor([[[-1.0, 1.0]], [[-1.0, 1.0]]])
    probe = LinearProbe(weight, torch.tensor([[0.0, 0.0], [2.0, -2.0]]))
    features = torch.tensor([-1.0, 1.0, 3.0, 5.0]).expand(2, 4)[..., None]
    assert probe.predict(features).tolist() == [[0, 1, 1, 1], [0, 0, 1, 1]]
    assert probe.predict(features).dtype == torch.int64
    assert probe.accuracy(features, torch.tensor([0, 0, 1, 1])).tolist() == [0.75, 1.0]


@given(st.data())
def test_low_label_subsets_have_the_requested_number_per_class(data):
    counts = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=6))
    labels = torch.tensor(data.draw(st.permutations([k for k, n in enumerate(counts) for _ in range(n)])))
    per_class, seed = data.draw(st.integers(1, min(counts))), data.draw(st.integers(0, 99))
    names = [f"class {k}" for k in range(len(counts))]
    index = low_label_subset(labels, per_class, seed, names)
    assert labels[index].bincount().tolist() == [per_class] * len(counts)
    assert index.tolist() == sorted(set(index.tolist()))
    assert torch.equal(index, low_label_subset(labels, per_class, seed, names))


def test_low_label_subsets_are_random():
    labels = torch.arange(200) % 2
    subsets = torch.stack([low_label_subset(labels, 10, seed, ["cat", "dog"]) for seed in range(200)])
    counts = subsets.flatten().bincount(minlength=200)
    assert len(subsets.unique(dim=0)) == 200
    assert counts.min() >= 4  # expected: 20 each
    assert counts.max() <= 45


def test_a_class_with_too_few_samples_is_an_error():
    with pytest.raises(IgptError, match="Class dog has only 2 samples, fewer than the 3 per class"):
        low_label_subset(torch.tensor([0, 0, 0, 1, 1]), 3, 0, ["cat", "dog"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x[0], y, K, [1.0]), "takes float32 or float64 features .layers, samples, channels.; these are"),
        (lambda x, y: (x.half(), y, K, [1.0]), "these are torch.float16"),
        (lambda x, y: (x, y[1:], K, [1.0]), f"{N} samples needs as many int64 labels; these are torch.int64 of shape"),
        (lambda x, y: (x, y.int(), K, [1.0]), "these are torch.int32"),
        (lambda x, y: (x / 0, y, K, [1.0]), "contain inf or nan"),
        (lambda x, y: (x, y, K - 1, [1.0]), "labels 0 to 3"),
        (lambda x, y: (x, y - 1, K, [1.0]), "labels 0 to 4"),
        (lambda x, y: (x[:, :0], y[:0], K, [1.0]), "at least one sample"),
        (lambda x, y: (x, y, K, []), "give at least one"),
        (lambda x, y: (x, y, K, [1.0, -1.0]), "not negative"),
        (lambda x, y: (x, y, K, [float("nan")]), "finite"),
    ],
)
def test_invalid_inputs_of_a_probe_are_refused(change, message, data):
    with pytest.raises(IgptError, match=message):
        fit_lbfgs(*change(*data))


def separable(n=1000):
    """Features (1, n, C) of which weak penalties classify almost all: they take many evaluations."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % K
    inner = 2 * torch.randn(K, 6, generator=generator, dtype=torch.float64)[labels]
    inner += torch.randn(n, 6, generator=generator, dtype=torch.float64)
    features = torch.tanh(inner @ torch.randn(6, C, generator=generator, dtype=torch.float64) / 2)
    return standardize(features[None])[0], labels


@pytest.mark.parametrize(("by_class", "share"), [(True, 0.75), (False, 1)])
def test_one_by_one_gives_the_same_probes_in_fewer_evaluations(by_class, share, monkeypatch):
    """In the order of the penalties; by class with samples drawn, 16 * 13 of 1,000."""
    monkeypatch.setattr(linear_probe, "curvature_pays", lambda *shape: by_class)
    evaluations = []

    def counting(terms, *arguments, **keywords):
        def count(x):
            evaluations.append(1)
            return 0 * x.sum(dim=1)

        return lbfgs.minimize([*terms, count], *arguments, **keywords)

    monkeypatch.setattr(linear_probe, "minimize", counting)
    (features, labels), penalties = separable(), [1e-4, 0.1, 1e-3, 1.0, 1e-2]
    separate = [fit_lbfgs(features, labels, K, [penalty])[0] for penalty in penalties]
    before = len(evaluations)
    together = fit_one_by_one(features, labels, K, penalties)
    after = len(evaluations) - before
    for penalty, *probes in zip(penalties, together, separate, strict=True):
        ours, theirs = (
            objective(features[0].numpy(), labels.numpy(), probe.weight[0].numpy(), probe.bias[0].numpy(), penalty)
            for probe in probes
        )
        assert ours == pytest.approx(theirs, rel=1e-4)
    assert after < share * before


@pytest.mark.parametrize("drawn", [False, True])
@pytest.mark.parametrize("logits_at_once", [linear_probe.LOGITS_AT_ONCE, 400])  # all 5 classes, or 2 at a time
def test_the_curvature_of_a_class_is_that_of_autograd(drawn, logits_at_once, standardized, monkeypatch):
    features, labels = standardized[0][:1, :200, :3], standardized[1][:200]
    monkeypatch.setattr(linear_probe, "LOGITS_AT_ONCE", logits_at_once)
    monkeypatch.setattr(linear_probe, "SAMPLES_PER_CHANNEL", 40 if drawn else 100)  # 160 of 200 samples, or all
    parameters = 0.5 * torch.randn(1, K, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    penalty = torch.tensor([0.1], dtype=torch.float64)

    def loss(x):
        logits = features[0] @ x[:, :-1].T + x[:, -1]
        return F.cross_entropy(logits, labels) + 0.05 * x[:, :-1].square().sum()

    hessian = torch.autograd.functional.hessian(loss, parameters[0])  # (K, 4, K, 4)
    gradient = torch.randn(1, K * 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = torch.cat([torch.linalg.solve(hessian[k, :, k], gradient[0].view(K, 4)[k]) for k in range(K)])
    found = linear_probe._inverse_hessian_at(parameters, features, penalty)(gradient)[0]
    error = (found - expected).norm() / expected.norm()
    assert error < (0.2 if drawn else 1e-9)


def test_a_matrix_without_full_rank_has_an_inverse():
    x = torch.randn(5, 20, generator=torch.Generator().manual_seed(0))
    inverse = linear_probe._inverse(x.mT @ x)
    assert inverse.isfinite().all()
    torch.testing.assert_close(x @ inverse @ x.mT, torch.eye(5), atol=0.02, rtol=0)


def test_curvature_takes_no_more_memory_than_the_features():
    imagenet, cifar = (1_281_167, 1000), (45_000, 100)
    assert curvature_pays(imagenet[0], 512, imagenet[1])
    assert not curvature_pays(imagenet[0], 3072, imagenet[1])  # raw pixels: 75 GB of matrices, 47 GB of features
    assert curvature_pays(cifar[0], 512, cifar[1])
    assert not curvature_pays(5_000, 512, 10)  # STL-10: it would take longer than the evaluations


def test_squares_that_overflow_are_refused():
    with pytest.raises(IgptError, match="too large for their squares"):
        linear_probe._inverse(torch.full((3, 3), torch.inf))
