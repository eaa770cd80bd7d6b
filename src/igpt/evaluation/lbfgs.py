"""L-BFGS for a batch of independent problems at once: the optimizer of the linear probes.

Shapes: B problems, D variables each, m remembered pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from igpt.errors import IgptError
from igpt.progress import track

Objective = Callable[[Tensor], Tensor]  # (B, D) -> (B,), row by row
Map = Callable[[Tensor], Tensor]  # (B, D) -> (B, D), row by row

SUFFICIENT_DECREASE = 1e-4  # c1 of Nocedal and Wright's condition (3.4)
SMALLEST_STEP = 2.0**-40


def minimize(
    objective: Objective,
    start: Tensor,
    max_iterations: int = 500,
    tolerance: float = 1e-5,
    history: int = 10,
    precondition: Map | None = None,
) -> Tensor:
    """Minimizers (B, D) of B independent smooth functions, in the precision and on the device of `start` (B, D).

    `objective` gives the values (B,) of all points (B, D); each may depend on its own row alone, and autograd must be
    able to differentiate it. `history` pairs are remembered per problem. A problem rests once the largest component of
    its gradient is at most `tolerance`, or once no step along its search direction helps any more; all stop after
    `max_iterations` evaluations. `precondition` multiplies every row by a fixed positive definite matrix; the closer
    that is to the inverse Hessian, the fewer iterations it takes.

    Source: Nocedal and Wright, "Numerical Optimization", algorithms 7.4 and 7.5, with backtracking (algorithm 3.1).
    Every problem is at its own place in the algorithm: an evaluation is a new iteration for those whose last step was
    accepted, and a shorter step for the others, so that none waits for another one's line search.

    Raises :class:`IgptError` if a problem has no finite value and gradient at its start.
    """
    x = start.detach().clone()
    value, gradient = value_and_gradient(objective, x)
    _check_finite(value, gradient)
    pairs = _Pairs(x, history, precondition or torch.clone)
    step = 1 / pairs.direction(gradient).norm(dim=1).clamp(min=1)  # the first one is cautious
    active = gradient.abs().amax(dim=1) > tolerance
    for _ in track(range(max_iterations), "Fitting probes, at most"):
        if not active.any():
            break
        direction = pairs.direction(gradient)
        trial = x + step[:, None] * direction
        trial_value, trial_gradient = value_and_gradient(objective, trial)
        slope, trial_slope = _dot(gradient, direction), _dot(trial_gradient, direction)
        accepted = active & _decreases_enough(value, trial_value, slope, trial_slope, step)
        pairs.remember(accepted, trial - x, trial_gradient - gradient)
        x = torch.where(accepted[:, None], trial, x)
        gradient = torch.where(accepted[:, None], trial_gradient, gradient)
        value = torch.where(accepted, trial_value, value)
        step = torch.where(accepted, 1, step / 2)
        active = (gradient.abs().amax(dim=1) > tolerance) & (step > SMALLEST_STEP)
    return x


class _Pairs:
    """The last m steps s and changes y of the gradient of every problem, each problem's in a ring of m places.

    A place that was never filled has rho = 1 / (s . y) = 0 and so no effect.
    """

    def __init__(self, like: Tensor, history: int, precondition: Map) -> None:
        self.s = like.new_zeros(like.shape[0], history, like.shape[1])
        self.y = torch.zeros_like(self.s)
        self.rho = like.new_zeros(like.shape[0], history)
        self.count = torch.zeros(like.shape[0], dtype=torch.int64, device=like.device)
        self.precondition = precondition
        self.scale = like.new_ones(like.shape[0])  # gamma of (7.20)

    def remember(self, rows: Tensor, s: Tensor, y: Tensor) -> None:
        """Append the pairs s, y (B, D) of those problems in `rows` (B,) along whose step the curvature is positive."""
        curvature = _dot(s, y)
        rows = rows & (curvature > torch.finfo(s.dtype).eps * s.norm(dim=1) * y.norm(dim=1))
        place = rows.nonzero().flatten(), self.count[rows] % self.rho.shape[1]
        self.s[place], self.y[place], self.rho[place] = s[rows], y[rows], 1 / curvature[rows]
        self.count += rows
        self.scale = torch.where(rows, curvature / _dot(y, self.precondition(y)), self.scale)

    def direction(self, gradient: Tensor) -> Tensor:
        """Minus the inverse Hessian's estimate times the gradient (B, D): the two-loop recursion, algorithm 7.4."""
        result, loop = -gradient, []
        for s, y, rho in self._newest_first():
            alpha = rho * _dot(s, result)
            result = result - alpha[:, None] * y
            loop.append((s, y, rho, alpha))
        result = self.scale[:, None] * self.precondition(result)
        for s, y, rho, alpha in reversed(loop):
            beta = rho * _dot(y, result)
            result = result + (alpha - beta)[:, None] * s
        return result

    def _newest_first(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """S (B, D), y (B, D) and rho (B,), as far back as any problem remembers."""
        problems, size = torch.arange(len(self.count), device=self.count.device), self.rho.shape[1]
        for age in range(1, min(int(self.count.max()), size) + 1):
            place = problems, (self.count - age) % size
            yield self.s[place], self.y[place], self.rho[place]


def _decreases_enough(value: Tensor, trial_value: Tensor, slope: Tensor, trial_slope: Tensor, step: Tensor) -> Tensor:
    """Whether the Armijo condition holds (B,); slopes are along the search direction.

    Near a minimum the difference of two values is all rounding. There, as in Hager and Zhang's (2005) approximate
    Wolfe condition, the slopes stand in for it: they tell the same of a parabola, and with more digits.
    """
    exact = trial_value <= value + SUFFICIENT_DECREASE * step * slope
    same = trial_value <= value + 10 * torch.finfo(value.dtype).eps * value.abs()
    by_slopes = trial_slope <= (2 * SUFFICIENT_DECREASE - 1) * slope
    return exact | (same & by_slopes)


def value_and_gradient(objective: Objective, x: Tensor) -> tuple[Tensor, Tensor]:
    """Values (B,) and gradients (B, D) of an objective at x (B, D)."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = objective(x)
        # Rows are independent, so the gradient of the sum is each row's own.
        (gradient,) = torch.autograd.grad(value.sum(), x)
    return value.detach(), gradient


def _check_finite(value: Tensor, gradient: Tensor) -> None:
    finite = value.isfinite() & gradient.isfinite().all(dim=1)
    if not finite.all():
        problem = int((~finite).nonzero()[0])
        raise IgptError(
            f"The objective of problem {problem} has no finite value and gradient at its start; check its data for "
            "inf and nan, or start elsewhere."
        )


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(dim=1)
