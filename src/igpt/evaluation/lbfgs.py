"""L-BFGS for a batch of independent minimization problems: the optimizer of the linear probes.

Shapes: B problems, D variables each, m pairs in the history.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from igpt.errors import IgptError
from igpt.progress import track

BatchFunction = Callable[[Tensor], Tensor]  # (B, D) -> (B,); each row independently of the others
Terms = BatchFunction | Sequence[BatchFunction]  # a function, or functions whose sum is meant
BatchMap = Callable[[Tensor], Tensor]  # (B, D) -> (B, D); each row independently of the others

SUFFICIENT_DECREASE = 1e-4  # c1 of Nocedal and Wright's condition (3.4)
SMALLEST_STEP = 2.0**-40


def minimize(
    function: Terms,
    start: Tensor,
    max_iterations: int = 500,
    tolerance: float = 1e-5,
    history: int = 10,
    precondition: BatchMap | None = None,
) -> Tensor:
    """Minimizers (B, D) of B independent smooth functions, in the precision and on the device of `start` (B, D).

    `function` maps points (B, D) to values (B,) row by row, and must be differentiable by autograd. It may be a list of
    terms of a sum, of which autograd then keeps intermediate results for one at a time. The history has `history` pairs
    per problem. A problem is finished once the largest component of its gradient is at most
    `tolerance`, or once no step along its search direction decreases the value; all stop after `max_iterations`
    evaluations. `precondition` multiplies every row by a fixed positive definite matrix. The closer this matrix is to
    the inverse Hessian, the fewer iterations are needed.

    Source: Nocedal and Wright, "Numerical Optimization", algorithms 7.4 and 7.5, with backtracking (algorithm 3.1).
    Every evaluation advances all problems, each at its own stage: it is a new iteration for those whose last step was
    accepted, and a shorter step for the others, so that no problem waits for the line search of another.

    Raises :class:`IgptError` if a value or gradient at the start is not finite.
    """
    x = start.detach().clone()
    value, gradient = value_and_gradient(function, x)
    _check_finite(value, gradient)
    past = _History(x, history, precondition or torch.clone)
    step = 1 / past.direction(gradient).norm(dim=1).clamp(min=1)  # short, as the curvature is unknown
    active = gradient.abs().amax(dim=1) > tolerance
    for _ in track(range(max_iterations), "Fitting probes, at most"):
        if not active.any():
            break
        direction = past.direction(gradient)
        trial = x + step[:, None] * direction
        trial_value, trial_gradient = value_and_gradient(function, trial)
        slope, trial_slope = _dot(gradient, direction), _dot(trial_gradient, direction)
        accepted = active & _sufficient_decrease(value, trial_value, slope, trial_slope, step)
        past.append(accepted, trial - x, trial_gradient - gradient)
        x = torch.where(accepted[:, None], trial, x)
        gradient = torch.where(accepted[:, None], trial_gradient, gradient)
        value = torch.where(accepted, trial_value, value)
        step = torch.where(accepted, 1, step / 2)
        active = (gradient.abs().amax(dim=1) > tolerance) & (step > SMALLEST_STEP)
    return x


class _History:
    """The last m steps s and changes y of the gradient of every problem, in a ring buffer of m slots per problem.

    An empty slot has rho = 1 / (s . y) = 0, and so has no effect.
    """

    def __init__(self, like: Tensor, history: int, precondition: BatchMap) -> None:
        self.s = like.new_zeros(like.shape[0], history, like.shape[1])
        self.y = torch.zeros_like(self.s)
        self.rho = like.new_zeros(like.shape[0], history)
        self.count = torch.zeros(like.shape[0], dtype=torch.int64, device=like.device)
        self.precondition = precondition
        self.scale = like.new_ones(like.shape[0])  # gamma of (7.20)

    def append(self, rows: Tensor, s: Tensor, y: Tensor) -> None:
        """Append the pairs s, y (B, D) of the problems in `rows` (B,), if the curvature along the step is positive."""
        curvature = _dot(s, y)
        rows = rows & (curvature > torch.finfo(s.dtype).eps * s.norm(dim=1) * y.norm(dim=1))
        slot = rows.nonzero().flatten(), self.count[rows] % self.rho.shape[1]
        self.s[slot], self.y[slot], self.rho[slot] = s[rows], y[rows], 1 / curvature[rows]
        self.count += rows
        self.scale = torch.where(rows, curvature / _dot(y, self.precondition(y)), self.scale)

    def direction(self, gradient: Tensor) -> Tensor:
        """Minus the estimated inverse Hessian times the gradient, (B, D), by the two-loop recursion, algorithm 7.4."""
        result, terms = -gradient, []
        for s, y, rho in self._newest_first():
            alpha = rho * _dot(s, result)
            result = result - alpha[:, None] * y
            terms.append((s, y, rho, alpha))
        result = self.scale[:, None] * self.precondition(result)
        for s, y, rho, alpha in reversed(terms):
            beta = rho * _dot(y, result)
            result = result + (alpha - beta)[:, None] * s
        return result

    def _newest_first(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """S (B, D), y (B, D) and rho (B,) of each age, up to the longest history of a problem."""
        problems, size = torch.arange(len(self.count), device=self.count.device), self.rho.shape[1]
        for age in range(1, min(int(self.count.max()), size) + 1):
            slot = problems, (self.count - age) % size
            yield self.s[slot], self.y[slot], self.rho[slot]


def _sufficient_decrease(
    value: Tensor, trial_value: Tensor, slope: Tensor, trial_slope: Tensor, step: Tensor
) -> Tensor:
    """Whether the Armijo condition holds, (B,); slopes are along the search direction.

    Near a minimum, the difference of two values is mostly rounding error. There we compare slopes instead, as in the
    approximate Wolfe condition of Hager and Zhang (2005). For a parabola both are equivalent, but slopes are more
    precise.
    """
    by_values = trial_value <= value + SUFFICIENT_DECREASE * step * slope
    equal = trial_value <= value + 10 * torch.finfo(value.dtype).eps * value.abs()
    by_slopes = trial_slope <= (2 * SUFFICIENT_DECREASE - 1) * slope
    return by_values | (equal & by_slopes)


def value_and_gradient(function: Terms, x: Tensor) -> tuple[Tensor, Tensor]:
    """Values (B,) and gradients (B, D) of a function, or of a sum of terms, at x (B, D)."""
    values, gradient = x.new_zeros(len(x)), torch.zeros_like(x)
    for term in (function,) if callable(function) else function:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            value = term(x)
            # Rows are independent, so the gradient of the sum has the gradient of each row.
            (slope,) = torch.autograd.grad(value.sum(), x)
        values, gradient = values + value.detach(), gradient + slope
    return values, gradient


def _check_finite(value: Tensor, gradient: Tensor) -> None:
    finite = value.isfinite() & gradient.isfinite().all(dim=1)
    if not finite.all():
        problem = int((~finite).nonzero()[0])
        raise IgptError(
            f"Problem {problem} has no finite value and gradient at its start; check its data for inf and nan, or "
            "start at another point."
        )


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(dim=1)
