"""Linear probes: multinomial logistic regression on the features of all layers at once.

Shapes: L layers, N samples, C channels, K classes, P penalties.

Source: Chen et al. 2020, "Generative Pretraining from Pixels", which fits the probes of small data sets by L-BFGS.
:mod:`igpt.evaluation.stream_probe` has those of ImageNet.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from igpt.errors import IgptError
from igpt.evaluation.lbfgs import BatchFunction, BatchMap, minimize

Penalties = Tensor | Sequence[float]

# How much flatter the cross-entropy of a fitted probe is than at its start. Of 1, 10 and 30, this took the fewest
# iterations over weak to strong features and penalties from 1e-1 to 1e-4.
FLATNESS = 10
# Samples, per channel, that estimate the curvature of a class. With fewer, a fit takes more evaluations of the loss,
# which benchmarks/probe_evaluations.py counts; with more, their product takes longer.
SAMPLES_PER_CHANNEL = 16
LOGITS_AT_ONCE = 2**24  # of all layers, penalties and classes together: 64 MiB in float32


@dataclass(frozen=True)
class LinearProbe:
    """A linear classifier per layer: weight (L, C, K), bias (L, K)."""

    weight: Tensor
    bias: Tensor

    def predict(self, features: Tensor) -> Tensor:
        """Predicted classes (L, N), int64, of features (L, N, C)."""
        return torch.baddbmm(self.bias[:, None], features, self.weight).argmax(dim=-1)

    def accuracy(self, features: Tensor, labels: Tensor) -> Tensor:
        """The share (L,), from 0 to 1, of the N samples whose predicted class equals `labels` (N,), per layer."""
        return (self.predict(features) == labels).double().mean(dim=1)


def standardize(train: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """Features (L, N, C) of all splits, with mean 0 and standard deviation 1 per layer and channel in training.

    All splits are shifted and scaled by the statistics of the training split. A channel that is constant there is only
    shifted.
    """
    mean, deviation = train.mean(dim=1, keepdim=True), train.std(dim=1, keepdim=True, correction=0)
    # Rounding may give a constant channel a tiny deviation, and dividing by that would amplify noise.
    constant = train.amax(dim=1, keepdim=True) == train.amin(dim=1, keepdim=True)
    scale = deviation.masked_fill(constant, 1)
    return tuple((split - mean) / scale for split in (train, *others))


@torch.inference_mode(False)
def fit_lbfgs(
    features: Tensor,
    labels: Tensor,
    n_classes: int,
    penalties: Penalties,
    max_iterations: int = 500,
    tolerance: float = 1e-5,
) -> list[LinearProbe]:
    """One probe per penalty, each minimizing mean cross-entropy (nats) + penalty / 2 * ||weight||^2 in every layer.

    `features` (L, N, C) are float32 or float64, `labels` (N,) int64 from 0 to n_classes - 1; the bias is not penalized.
    All layers and penalties are one batch of problems for :func:`igpt.evaluation.lbfgs.minimize`, which explains
    `max_iterations` and `tolerance`. Memory: about 25 times the L * P * K * C parameters; features are not copied, and
    logits are computed for some of the samples at a time.

    Float32 suffices for standardized features. If channels differ by orders of magnitude, standardize them or use
    float64. Penalties below 1e-3 need a tolerance of 1e-6 for four correct digits of the loss.

    scikit-learn's LogisticRegression(C=...) has the same minimizer at penalty = 1 / (C * N). For two classes it fits
    one column of weights instead of two, and the equivalent is penalty = 2 / (C * N).

    Raises :class:`IgptError` for features, labels or penalties that cannot be fitted.
    """
    start = _start(features, labels, n_classes, penalties)
    penalty = torch.as_tensor(penalties, dtype=features.dtype, device=features.device)
    penalty = _without_inference_mode(penalty)
    precondition = _inverse_hessian(_moments(features), penalty, n_classes)
    return _probes(_fit(features, labels, start, penalty, precondition, max_iterations, tolerance))


@torch.inference_mode(False)
def fit_one_by_one(
    features: Tensor,
    labels: Tensor,
    n_classes: int,
    penalties: Penalties,
    max_iterations: int = 500,
    tolerance: float = 1e-5,
) -> list[LinearProbe]:
    """The probes of :func:`fit_lbfgs`, fitted from the strongest penalty to the weakest, for many samples.

    Each fit starts from the probe before it, and is preconditioned by the curvature there, class by class. That takes
    fewer evaluations (`python benchmarks/probe_evaluations.py`), but pays only if these are slow. See
    :func:`curvature_pays`. The loss is convex and the tolerance is the same, so the probes are those of `fit_lbfgs` up
    to that tolerance.
    """
    start = _start(features, labels, n_classes, penalties)[:, :1]  # (L, 1, K, C + 1)
    by_class = curvature_pays(features.shape[1], features.shape[2], n_classes)
    moments = None if by_class else _moments(features)
    probes: dict[float, LinearProbe] = {}
    for value in sorted(map(float, penalties), reverse=True):
        penalty = features.new_tensor([value])
        precondition = None  # frees that of the penalty before
        if moments is None:
            precondition = _inverse_hessian_at(start[:, 0], features, penalty)
        else:
            precondition = _inverse_hessian(moments, penalty, n_classes)
        start = _fit(features, labels, start, penalty, precondition, max_iterations, tolerance)
        (probes[value],) = _probes(start)
    return [probes[float(value)] for value in penalties]


def curvature_pays(n_samples: int, n_channels: int, n_classes: int) -> bool:
    """Whether the curvature of each class, whose cost grows with the square of the channels, saves more than it takes.

    By the number of operations it takes as long as at most about 80 evaluations of the loss, and faster ones. The
    second condition is that its 8 K C^2 bytes are no more than the 12 N C bytes of the features.
    """
    return n_channels**2 <= 10 * n_samples and n_classes * n_channels <= 1.5 * n_samples


def _fit(
    features: Tensor,
    labels: Tensor,
    start: Tensor,
    penalty: Tensor,
    precondition: BatchMap,
    max_iterations: int,
    tolerance: float,
) -> Tensor:
    """Fitted parameters (L, P, K, C + 1) for penalties (P,), from a `start` of the same shape."""
    features, labels = _without_inference_mode(features), _without_inference_mode(labels)

    def penalties_of(x: Tensor) -> Tensor:
        return (penalty / 2 * x.view_as(start)[..., :-1].square().sum(dim=(2, 3))).flatten()

    def cross_entropy(samples: slice, x: Tensor) -> Tensor:
        return _cross_entropy(x.view_as(start), features[:, samples], labels[samples]).flatten() / len(labels)

    logits_per_sample = start[..., 0].numel()
    at_once = max(1, LOGITS_AT_ONCE // logits_per_sample)
    parts = [slice(first, first + at_once) for first in range(0, len(labels), at_once)]
    terms: list[BatchFunction] = [penalties_of, *(partial(cross_entropy, part) for part in parts)]
    x = start.reshape(-1, start[0, 0].numel())  # (L * P, K * (C + 1))
    return minimize(terms, x, max_iterations, tolerance, precondition=precondition).view_as(start)


def low_label_subset(labels: Tensor, per_class: int, seed: int, class_names: Sequence[str]) -> Tensor:
    """Ascending indices (K * per_class,) of `per_class` samples of each class, sampled without replacement.

    `labels` (N,) are indices into the K `class_names`. Raises :class:`IgptError` if a class has fewer samples.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for label, name in enumerate(class_names):
        members = (labels.cpu() == label).nonzero().flatten()
        if len(members) < per_class:
            raise IgptError(
                f"Class {name} has only {len(members)} samples, fewer than the {per_class} per class that are needed; "
                "use fewer, or leave the class out."
            )
        chosen.append(members[torch.randperm(len(members), generator=generator)[:per_class]])
    return torch.cat(chosen).sort().values.to(labels.device)


def _start(features: Tensor, labels: Tensor, n_classes: int, penalties: Penalties) -> Tensor:
    """Initial parameters (L, P, K, C + 1), zeros with the bias last; IgptError if they cannot be fitted to the data."""
    _check_data(features, labels, n_classes)
    if len(penalties) == 0 or any(not 0 <= float(penalty) < math.inf for penalty in penalties):
        raise IgptError(f"The penalties are {list(penalties)}; give at least one, each finite and not negative.")
    return features.new_zeros(len(features), len(penalties), n_classes, features.shape[2] + 1)


def _check_data(features: Tensor, labels: Tensor, n_classes: int) -> None:
    if features.ndim != 3 or features.dtype not in (torch.float32, torch.float64):
        raise IgptError(
            f"A probe takes float32 or float64 features (layers, samples, channels); these are {features.dtype} of "
            f"shape {tuple(features.shape)}."
        )
    if labels.shape != features.shape[1:2] or labels.dtype != torch.int64:
        raise IgptError(
            f"A probe of {features.shape[1]} samples needs as many int64 labels; these are {labels.dtype} of shape "
            f"{tuple(labels.shape)}."
        )
    if len(labels) == 0 or labels.min() < 0 or labels.max() >= n_classes:
        raise IgptError(f"A probe of {n_classes} classes needs at least one sample, and labels 0 to {n_classes - 1}.")
    if not torch.stack(features.aminmax()).isfinite().all():
        raise IgptError("The features contain inf or nan; check the model that computed them.")


def _without_inference_mode(tensor: Tensor) -> Tensor:
    """The same tensor, or a copy if it was created in inference mode, since autograd refuses such tensors."""
    return tensor.clone() if tensor.is_inference() else tensor


def _cross_entropy(parameters: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy (L, P) in nats of parameters (L, P, K, C + 1), summed over the samples.

    Samples are the last dimension of the logits, which makes matrix products and softmax several times faster on a CPU.
    """
    n_layer, n_candidate, n_class, _ = parameters.shape
    weight, bias = parameters[..., :-1].flatten(1, 2), parameters[..., -1:].flatten(1, 2)
    logits = torch.baddbmm(bias, weight, features.mT).view(n_layer * n_candidate, n_class, -1)  # (L * P, K, N)
    nats = F.cross_entropy(logits, labels.expand(len(logits), -1), reduction="none")
    return nats.sum(dim=1).view(n_layer, n_candidate)


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (L, C + 1) and eigenvectors (L, C + 1, C + 1) of the second moments of (features, 1)."""
    n_layer, n_sample, n_channel = features.shape
    moments = features.new_ones(n_layer, n_channel + 1, n_channel + 1)
    moments[:, :-1, :-1] = features.mT @ features / n_sample
    moments[:, :-1, -1] = moments[:, -1, :-1] = features.mean(dim=1)
    values, vectors = torch.linalg.eigh(moments)
    return values, vectors


def _inverse_hessian(moments: tuple[Tensor, Tensor], penalty: Tensor, n_classes: int) -> BatchMap:
    """Multiply gradients (L * P, K * (C + 1)) by an estimate of the inverse Hessian.

    Without it, L-BFGS spends most of its iterations on the scales and correlations of the channels. While all classes
    are equally likely, the Hessian is 1 / K times the second moments of (features, 1), plus the penalty. A fitted probe
    is more confident, and its cross-entropy flatter, by the estimated factor FLATNESS. The estimate also penalizes the
    bias, so that one eigendecomposition per layer serves all penalties.
    """
    values, vectors = moments
    n_layer, n_channel = len(values), values.shape[1] - 1
    curvature = values[:, None, None] / (FLATNESS * n_classes) + penalty[:, None, None]  # (L, P, 1, C + 1)
    rounding = curvature.amax(dim=-1, keepdim=True) * torch.finfo(values.dtype).eps * n_channel
    curvature = torch.maximum(curvature, rounding)

    def apply(gradient: Tensor) -> Tensor:
        rotated = gradient.view(n_layer, -1, n_channel + 1) @ vectors  # (L, P * K, C + 1)
        scaled = rotated.view(n_layer, len(penalty), n_classes, -1) / curvature  # (L, P, K, C + 1)
        return (scaled.flatten(1, 2) @ vectors.mT).view_as(gradient)

    return apply


def _inverse_hessian_at(parameters: Tensor, features: Tensor, penalty: Tensor) -> BatchMap:
    """Multiply gradients (L, K * (C + 1)) by the inverse of the Hessian at parameters (L, K, C + 1), class by class.

    The block of class k is the mean over the samples of p_k (1 - p_k) (x, 1) (x, 1)^T, plus the penalty; the blocks of
    pairs of classes are left out. Of many samples it is estimated by some, drawn in proportion to p_k (1 - p_k).
    """
    parameters, features = _without_inference_mode(parameters), _without_inference_mode(features)
    generator = torch.Generator(features.device).manual_seed(0)
    _, n_sample, n_channel = features.shape
    n_drawn = SAMPLES_PER_CHANNEL * (n_channel + 1)

    def inverse(x: Tensor, variance: Tensor) -> Tensor:
        """The inverse (C + 1, C + 1) of the block of one class, by features (N, C) and p_k (1 - p_k) (N,)."""
        if n_drawn < n_sample:
            drawn = torch.multinomial(variance, n_drawn, replacement=True, generator=generator)
            rows = F.pad(x[drawn], (0, 1), value=1) * variance.mean().sqrt()
        else:
            rows = F.pad(x, (0, 1), value=1) * variance.sqrt()[:, None]
        block = rows.mT @ rows / len(rows)
        block.diagonal()[:-1] += penalty
        return _inverse(block)

    blocks = [
        inverse(x, variance)
        for x, weights in zip(features, parameters, strict=True)
        for variance in _variances(x, weights)
    ]
    inverses = torch.stack(blocks).unflatten(0, parameters.shape[:2])  # (L, K, C + 1, C + 1)

    def apply(gradient: Tensor) -> Tensor:
        return (inverses @ gradient.view(*inverses.shape[:3], 1)).view_as(gradient)

    return apply


def _variances(features: Tensor, weights: Tensor) -> Iterator[Tensor]:
    """The variance p_k (1 - p_k) of each class over the samples, (N,) for each of the K classes.

    Features are (N, C), weights (K, C + 1). Logits are computed for some classes at a time: those of all samples and
    classes together may take more memory than the features.
    """
    groups = weights.split(max(1, LOGITS_AT_ONCE // len(features)))  # of k classes

    def logits(group: Tensor) -> Tensor:
        return torch.addmm(group[:, -1:], group[:, :-1], features.mT)  # (k, N)

    log_sum = logits(groups[0]).logsumexp(dim=0)
    for group in groups[1:]:
        log_sum = torch.logaddexp(log_sum, logits(group).logsumexp(dim=0))
    for group in groups:
        p = (logits(group) - log_sum).exp()
        yield from (p * (1 - p)).clamp(min=torch.finfo(p.dtype).tiny)


def _inverse(matrix: Tensor) -> Tensor:
    """The inverse of a positive semidefinite matrix, to which just enough is added that rounding cannot spoil it."""
    added = 10 * torch.finfo(matrix.dtype).eps * matrix.trace()
    while added.isfinite():
        factor, failed = torch.linalg.cholesky_ex(matrix + added * torch.eye(len(matrix)).to(matrix))
        if not failed:
            return torch.cholesky_inverse(factor)
        added = 10 * added
    raise IgptError("The features are too large for their squares; standardize them or use float64.")


def _probes(parameters: Tensor) -> list[LinearProbe]:
    """One probe per penalty of the parameters (L, P, K, C + 1)."""
    return [LinearProbe(x[..., :-1].mT.contiguous(), x[..., -1].contiguous()) for x in parameters.unbind(dim=1)]
