"""Linear probes of all layers of a 12-layer model in one fit, compared with scikit-learn, which fits layer by layer.

python benchmarks/probe.py
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from statistics import median

import sklearn
import torch
from sklearn.linear_model import LogisticRegression
from table import write_table
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.nn import functional as F

from igpt.evaluation.linear_probe import fit_lbfgs, standardize

LAYERS, SAMPLES, CHANNELS, CLASSES = 13, 2000, 128, 9
PENALTY, TOLERANCE, ITERATIONS = 1e-3, 1e-4, 500
REPETITIONS = 3
SHOWN = (0, 6, 12)  # layers with weak, medium and strong features
NOTES = (
    f"{LAYERS} layers, {SAMPLES} samples, {CHANNELS} channels, {CLASSES} classes, float32; penalty {PENALTY:g}, "
    f"tolerance {TOLERANCE:g}; medians of {REPETITIONS} alternating repetitions on one core; "
    f"scikit-learn {sklearn.__version__}."
)


def make_data() -> tuple[Tensor, Tensor]:
    """Standardized float32 features (L, N, C) and labels (N,).

    The signal grows with the layer. The channels are correlated, as those of a network are: their spectrum decreases by
    a factor of thirty.
    """
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(CLASSES, (SAMPLES,), generator=generator)
    centers = torch.randn(CLASSES, CHANNELS, generator=generator)
    signal = torch.linspace(0.1, 0.6, LAYERS)[:, None, None]
    features = signal * centers[labels] + torch.randn(LAYERS, SAMPLES, CHANNELS, generator=generator)
    spectrum = torch.logspace(0, -1.5, CHANNELS)[:, None]
    mixing = spectrum * torch.randn(LAYERS, CHANNELS, CHANNELS, generator=generator)
    return standardize(features @ mixing)[0], labels


def loss(features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor) -> float:
    """The minimized loss of one layer, in float64."""
    logits = features.double() @ weight.double() + bias.double()
    return (F.cross_entropy(logits, labels) + PENALTY / 2 * weight.double().square().sum()).item()


def fit_ours(features: Tensor, labels: Tensor) -> list[tuple[Tensor, Tensor]]:
    (probe,) = fit_lbfgs(features, labels, CLASSES, [PENALTY], ITERATIONS, TOLERANCE)
    return list(zip(probe.weight, probe.bias, strict=True))


def fit_scikit_learn(features: Tensor, labels: Tensor) -> list[tuple[Tensor, Tensor]]:
    results = []
    for layer in features:
        model = LogisticRegression(C=1 / (PENALTY * SAMPLES), tol=TOLERANCE, max_iter=ITERATIONS)
        model.fit(layer.numpy(), labels.numpy())
        results.append((torch.from_numpy(model.coef_.T), torch.from_numpy(model.intercept_)))
    return results


def timed(fit: Callable[[], list[tuple[Tensor, Tensor]]]) -> tuple[float, list[tuple[Tensor, Tensor]]]:
    start = time.perf_counter()
    result = fit()
    return time.perf_counter() - start, result


def main() -> None:
    torch.set_num_threads(1)  # with more threads, the time would depend on other processes
    features, labels = make_data()
    everything = list(range(LAYERS))
    fits = [("fit_lbfgs", fit_ours, everything)]
    fits += [("scikit-learn", fit_scikit_learn, layers) for layers in (everything, *([i] for i in SHOWN))]
    runs: list[list[float]] = [[] for _ in fits]
    with threadpool_limits(1):
        for _ in range(1 + REPETITIONS):
            results = [timed(partial(fit, features[layers], labels)) for _, fit, layers in fits]
            for times, (seconds, _) in zip(runs, results, strict=True):
                times.append(seconds)
    rows = []
    for (name, _, layers), times, (_, probes) in zip(fits, runs, results, strict=True):
        seconds = median(times[1:])  # the first repetition warms up
        values = {i: round(loss(features[i], labels, *fit), 5) for i, fit in zip(layers, probes, strict=True)}
        rows.append(
            {
                "method": name,
                "layers": f"all {LAYERS}" if len(layers) > 1 else str(layers[0]),
                "seconds": round(seconds, 3),
                "seconds x 12": None if len(layers) > 1 else round(12 * seconds, 3),
                **{f"loss, layer {i}": values.get(i) for i in SHOWN},
            }
        )
    write_table("probe", "Linear probes of all layers of a 12-layer model", rows, NOTES)


if __name__ == "__main__":
    main()
