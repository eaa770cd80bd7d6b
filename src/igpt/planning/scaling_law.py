"""The loss as a function of parameters N and training tokens D: L(N, D) = E + A N^-alpha + B D^-beta.

The law and the way to fit it, by Huber's loss on the logarithms from many starts, are those of Hoffmann et al. 2022,
section 3.3.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from igpt.errors import IgptError

Values = NDArray[np.float64]

HUBER = 1e-2  # residuals of log L beyond this count linearly; it is three times the deviation of small runs over seeds
FEWEST = 6  # runs; the law has five coefficients
NAMES = ("E", "A", "alpha", "B", "beta")
SCALE = 1e6  # N and D are counted in millions while fitting, so that all coefficients are near 1


@dataclass(frozen=True)
class ScalingLaw:
    """A law with its uncertainty, the data it holds for, and the range of the runs that it was fitted to."""

    coefficients: list[float]  # E, A, alpha, B, beta
    samples: list[list[float]]  # the same, fitted to losses of the law with random noise
    noise: float  # deviation of the logarithms of the losses from the law
    data: str  # in words
    n_positions: int  # tokens per image
    vocab_size: int
    runs: int
    parameters: list[float]  # the least and the most
    tokens: list[float]
    flops: list[float]

    @classmethod
    def from_json(cls, content: Any) -> ScalingLaw:
        """The law that :meth:`as_json` gave; IgptError if it is something else."""
        try:
            law = cls(**content)
            if any(len(values) != len(NAMES) for values in (law.coefficients, *law.samples)):
                raise TypeError("coefficients are missing")
            return law
        except TypeError as error:
            raise IgptError(f"This is no scaling law; experiments/scaling/fit.py writes one ({error}).") from error

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def loss(self, parameters: float, tokens: float) -> float:
        """Nats per token of a model with so many parameters, after so many training tokens."""
        return float(_losses(np.array(self.coefficients), parameters, tokens))

    def loss_error(self, parameters: float, tokens: float) -> float:
        """Standard error of :meth:`loss`, by the parametric bootstrap."""
        return float(np.std([_losses(np.array(sample), parameters, tokens) for sample in self.samples]))

    def outside(self, parameters: float, tokens: float, flops: float) -> list[str]:
        """What is outside of the range of the runs, in words."""
        known = {"parameters": (parameters, self.parameters), "tokens": (tokens, self.tokens)}
        known["FLOPs"] = (flops, self.flops)
        return [
            f"{value:.3g} {name} (fitted from {low:.3g} to {high:.3g})"
            for name, (value, (low, high)) in known.items()
            if not 0.999 * low <= value <= 1.001 * high
        ]

    def __str__(self) -> str:
        """Coefficients with their standard errors."""
        errors = np.std(np.array(self.samples), axis=0)
        pairs = zip(NAMES, self.coefficients, errors, strict=True)
        return ", ".join(f"{name} = {value:.4g} +- {error:.2g}" for name, value, error in pairs)


def _losses(coefficients: Values, parameters: Values | float, tokens: Values | float) -> Values:
    e, a, alpha, b, beta = coefficients
    return e + a * (np.asarray(parameters) / SCALE) ** -alpha + b * (np.asarray(tokens) / SCALE) ** -beta


def fit_scaling_law(
    parameters: Values,
    tokens: Values,
    losses: Values,
    flops: Values,
    *,
    data: str,
    n_positions: int,
    vocab_size: int,
    resamples: int = 200,
    seed: int = 0,
) -> ScalingLaw:
    """Fit the law to runs, given as arrays of equal length. A and B are for N and D in millions.

    Its uncertainty comes from a parametric bootstrap: fits to the losses of the law times log-normal noise, whose size
    is that of the residuals. Runs drawn with replacement would leave out corners of so small a design.

    Raises :class:`IgptError` if there are too few runs, or all have the same size or the same tokens.
    """
    if len(losses) < FEWEST or len(np.unique(parameters)) < 2 or len(np.unique(tokens)) < 2:
        raise IgptError(
            f"A scaling law needs {FEWEST} runs or more, of several sizes and durations; there are {len(losses)}."
        )
    points = np.stack([np.log(parameters / SCALE), np.log(tokens / SCALE), np.log(losses)])  # (3, runs)
    fitted, errors = minimize(_starts(losses), points)
    best = fitted[[np.argmin(errors)]]  # (1, 5)
    (residuals,), _ = _residuals(best, points)
    noise = float(np.sqrt(np.sum(residuals**2) / (len(losses) - len(NAMES))))

    # All noisy losses are fitted at once, from the best fit.
    random = np.random.default_rng(seed)
    noisy = residuals + points[2] + noise * random.standard_normal((resamples, len(losses)))
    log_n, log_d = np.broadcast_to(points[:2, None], (2, *noisy.shape))
    samples, _ = minimize(np.tile(best, (resamples, 1)), np.stack([log_n, log_d, noisy]))
    rounded = np.exp(np.vstack([best, samples])).round(6).tolist()
    ranges = [[float(np.min(values)), float(np.max(values))] for values in (parameters, tokens, flops)]
    return ScalingLaw(rounded[0], rounded[1:], noise, data, n_positions, vocab_size, len(losses), *ranges)


def _starts(losses: Values) -> Values:
    """Logarithms of coefficients (starts, 5) to begin with: E below the lowest loss, A and B as large as the rest."""
    lowest, spread = float(losses.min()), float(np.ptp(losses))
    grid = product((0.3, 0.7, 0.95), (0.1, 1.0), (0.2, 0.5, 1.0), (0.1, 1.0), (0.2, 0.5, 1.0))
    return np.log([[e * lowest, a * spread, alpha, b * spread, beta] for e, a, alpha, b, beta in grid])


def minimize(theta: Values, points: Values, steps: int = 300) -> tuple[Values, Values]:
    """Minimize the Huber loss by Levenberg and Marquardt's method, for all rows of theta at once.

    Takes and returns logarithms of the coefficients (problems, 5); also returns the losses (problems,). `points` are
    the logarithms of N, D and L, (3, runs) for all problems or (3, problems, runs). Huber's loss becomes a sum of
    squares by weights that fall with the residual.
    """
    damping = np.full(len(theta), 1e-2)
    residuals, jacobian = _residuals(theta, points)
    error = _huber(residuals)
    for _ in range(steps):
        bent = np.minimum(1, HUBER / np.maximum(np.abs(residuals), 1e-300))
        gradient = np.einsum("pr,prc->pc", bent * residuals, jacobian)
        curvature = np.einsum("pr,prc,prd->pcd", bent, jacobian, jacobian)
        curvature += damping[:, None, None] * (np.eye(5) * np.einsum("pcc->pc", curvature)[:, None] + 1e-12 * np.eye(5))
        step = np.linalg.solve(curvature + 1e-15 * np.eye(5), gradient[..., None])[..., 0]
        proposed = np.clip(theta - np.clip(step, -1, 1), -15, 15)
        new_residuals, new_jacobian = _residuals(proposed, points)
        new_error = _huber(new_residuals)
        better = new_error < error
        theta = np.where(better[:, None], proposed, theta)
        residuals = np.where(better[:, None], new_residuals, residuals)
        jacobian = np.where(better[:, None, None], new_jacobian, jacobian)
        error = np.where(better, new_error, error)
        damping = np.clip(np.where(better, damping / 3, damping * 4), 1e-10, 1e10)
    return theta, error


def _residuals(theta: Values, points: Values) -> tuple[Values, Values]:
    """Residuals of log L (problems, runs), and their derivatives by the logarithms of the coefficients (..., 5)."""
    log_n, log_d, log_loss = points
    e, a, alpha, b, beta = (column[:, None] for column in theta.T)  # logarithms
    powers = (e + 0 * log_n, a - np.exp(alpha) * log_n, b - np.exp(beta) * log_d)
    terms = np.stack(powers)  # logarithms (3, problems, runs)
    log_sum = np.logaddexp.reduce(terms, axis=0)
    share_e, share_n, share_d = np.exp(terms - log_sum)
    derivatives = [share_e, share_n, -share_n * np.exp(alpha) * log_n, share_d, -share_d * np.exp(beta) * log_d]
    return log_sum - log_loss, np.stack(derivatives, axis=-1)


def _huber(residuals: Values) -> Values:
    size = np.abs(residuals)
    return np.sum(np.where(size <= HUBER, size**2 / 2, HUBER * (size - HUBER / 2)), axis=1)
