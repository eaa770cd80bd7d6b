import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize as scipy_minimize
from scipy.optimize import rosen, rosen_der

from igpt.errors import IgptError
from igpt.evaluation.lbfgs import _History, _sufficient_decrease, minimize


class Counted:
    """A function that counts its evaluations."""

    def __init__(self, function):
        self.function, self.evaluations = function, 0

    def __call__(self, x):
        self.evaluations += 1
        return self.function(x)


def quadratics(n_problems, size, condition, seed=0, dtype=torch.float64):
    """Hessians (B, D, D), minimizers (B, D) and the function 1/2 (x - m)' H (x - m)."""
    generator = torch.Generator().manual_seed(seed)
    rotation, _ = torch.linalg.qr(torch.randn(n_problems, size, size, generator=generator, dtype=torch.float64))
    eigenvalues = torch.logspace(0, -np.log10(condition), size, dtype=torch.float64)
    hessian = ((rotation * eigenvalues) @ rotation.mT).to(dtype)
    minimizer = torch.randn(n_problems, size, generator=generator, dtype=torch.float64).to(dtype)

    def objective(x):
        return 0.5 * torch.einsum("bi,bij,bj->b", x - minimizer, hessian, x - minimizer)

    return hessian, minimizer, objective


def rosenbrock(x):
    return (100 * (x[:, 1:] - x[:, :-1] ** 2) ** 2 + (1 - x[:, :-1]) ** 2).sum(dim=1)


def starts(n_problems, size, dtype=torch.float64):
    return torch.randn(n_problems, size, generator=torch.Generator().manual_seed(1), dtype=dtype)


@pytest.mark.parametrize("history", [1, 5, 30])
@pytest.mark.parametrize("condition", [1, 1e3])
def test_quadratics_reach_their_closed_form_minimum(history, condition):
    _, minimizer, objective = quadratics(6, 20, condition)
    found = minimize(objective, torch.zeros_like(minimizer), 2000, tolerance=1e-10, history=history)
    torch.testing.assert_close(found, minimizer, atol=1e-10 * condition * 20, rtol=0)


def test_rosenbrock_ends_where_scipy_ends():
    start = starts(5, 3)
    found = minimize(rosenbrock, start, tolerance=1e-8)
    for ours, x in zip(found, start, strict=True):
        theirs = scipy_minimize(rosen, x.numpy(), jac=rosen_der, method="BFGS", options={"gtol": 1e-8}).x
        np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-6)


def test_no_more_evaluations_than_scipy_by_half():
    """With a wrong direction or step length, the value would still decrease, but slowly."""
    start = starts(1, 10)
    objective = Counted(rosenbrock)
    found = minimize(objective, start, tolerance=1e-6)
    options = {"gtol": 1e-6, "ftol": 0, "maxcor": 10}
    theirs = scipy_minimize(rosen, start[0].numpy(), jac=rosen_der, method="L-BFGS-B", options=options)
    assert rosenbrock(found).item() < 1e-9
    assert objective.evaluations <= 1.5 * theirs.nfev


def test_a_problem_does_not_depend_on_the_others():
    start = starts(6, 5) * torch.logspace(-2, 1, 6, dtype=torch.float64)[:, None]
    together = minimize(rosenbrock, start, tolerance=1e-7)
    alone = torch.cat([minimize(rosenbrock, x[None], tolerance=1e-7) for x in start])
    torch.testing.assert_close(together, alone, atol=1e-12, rtol=0)


def test_a_converged_problem_stays_put():
    start = starts(3, 4)
    start[1] = 1 + 1e-9  # the gradient is not 0, but below the tolerance
    found = minimize(rosenbrock, start, tolerance=1e-5)
    assert torch.equal(found[1], start[1])
    assert not torch.equal(found[0], start[0])


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32), size=st.integers(1, 8), n_problems=st.integers(1, 4), double=st.booleans())
def test_the_gradient_of_convex_problems_vanishes(seed, size, n_problems, double):
    dtype = torch.float64 if double else torch.float32
    _, _, quadratic = quadratics(n_problems, size, 100, seed, dtype)

    def objective(x):
        return quadratic(x) + torch.nn.functional.softplus(3 * x).sum(dim=1)

    found = minimize(objective, starts(n_problems, size, dtype), tolerance=1e-5).requires_grad_()
    (gradient,) = torch.autograd.grad(objective(found).sum(), found)
    assert found.dtype == dtype
    assert gradient.abs().max() <= 1e-5


def test_negative_curvature_is_survived():
    """Between -0.58 and 0.58 the curvature of x^4 / 4 - x^2 / 2 is negative; the minima are at -1 and 1."""
    start = torch.linspace(-3, 3, 40, dtype=torch.float64)[:, None]
    found = minimize(lambda x: (x**4 / 4 - x**2 / 2).sum(dim=1), start, tolerance=1e-9)
    torch.testing.assert_close(found.abs(), torch.ones_like(found))


def test_steps_out_of_the_domain_are_shortened():
    """x - log x is nan below 0, where a step by an estimate of the curvature at another point may lead."""
    start = torch.tensor([[1e-3], [0.5], [30.0]], dtype=torch.float64)
    found = minimize(lambda x: (x - x.log()).sum(dim=1), start, tolerance=1e-9)
    torch.testing.assert_close(found, torch.ones_like(found))


def test_float32_converges_where_values_no_longer_differ():
    """An offset of 1000 hides the last three digits of the minimizer in the value."""
    _, minimizer, quadratic = quadratics(4, 10, 10, dtype=torch.float32)
    found = minimize(lambda x: 1000 + quadratic(x), torch.zeros_like(minimizer), tolerance=1e-5)
    torch.testing.assert_close(found, minimizer, atol=3e-4, rtol=0)


def test_the_inverse_hessian_as_preconditioner_is_newtons_method():
    hessian, minimizer, objective = quadratics(3, 20, 1e4)
    plain, newton = Counted(objective), Counted(objective)
    start = minimizer + 0.01  # so near that the first step is not shortened
    inverse = torch.linalg.inv(hessian)
    found = minimize(newton, start, tolerance=1e-9, precondition=lambda x: torch.einsum("bij,bj->bi", inverse, x))
    torch.testing.assert_close(found, minimizer, atol=1e-6, rtol=0)
    minimize(plain, start, tolerance=1e-9)
    assert newton.evaluations == 2
    assert plain.evaluations > 20


def dense_inverse_hessian(pairs, first):
    """The BFGS update (6.17) of Nocedal and Wright, written out with matrices."""
    inverse, identity = first, np.eye(len(first))
    for s, y in pairs:
        rho = 1 / (s @ y)
        left = identity - rho * np.outer(s, y)
        inverse = left @ inverse @ left.T + rho * np.outer(s, s)
    return inverse


def test_the_two_loop_recursion_equals_the_matrix_update():
    """One problem has more pairs than slots, another skipped some; each starts from its gamma times A."""
    rng = np.random.default_rng(0)
    hessian, _, _ = quadratics(1, 6, 50)
    first = np.diag(rng.uniform(0.5, 2, 6))
    memory = _History(torch.zeros(2, 6, dtype=torch.float64), 3, lambda x: x @ torch.from_numpy(first))
    seen = [[], []]
    for i in range(5):
        s = torch.from_numpy(rng.normal(size=(2, 6)))
        y = s @ hessian[0]
        if i in (1, 4):
            y[1] = -y[1]  # negative curvature
        rows = torch.tensor([i != 3, True])
        memory.append(rows, s, y)
        seen[0] += [(s[0].numpy(), y[0].numpy())] * (i != 3)
        seen[1] += [(s[1].numpy(), y[1].numpy())] * (i not in (1, 4))
    gradient = torch.from_numpy(rng.normal(size=(2, 6)))
    direction = memory.direction(gradient)
    for row, pairs in enumerate(seen):
        s, y = pairs[-1]
        inverse = dense_inverse_hessian(pairs[-3:], (s @ y) / (y @ first @ y) * first)
        np.testing.assert_allclose(direction[row].numpy(), -inverse @ gradient[row].numpy(), rtol=1e-10)


def test_sufficient_decrease():
    """Values and slopes before and after a step of 1: Armijo's condition, or by the slopes where values are equal."""
    value, trial_value, slope, trial_slope, expected = zip(
        (1.0, 0.5, -1.0, 0.0, True),
        (1.0, 0.5, -1.0, 9.0, True),
        (1.0, 1.5, -1.0, 0.0, False),
        (1.0, 1 - 1e-5, -1.0, 1.5, False),  # less than 1e-4 of the decrease that the slope predicts
        (1.0, 1 + 1e-16, -1e-9, 0.9e-9, True),
        (1.0, 1 + 1e-16, -1e-9, 1.1e-9, False),  # further from the minimum than before
        (1.0, float("nan"), -1.0, float("nan"), False),
        strict=True,
    )
    value, trial_value, slope, trial_slope = map(torch.DoubleTensor, (value, trial_value, slope, trial_slope))
    step = torch.ones_like(value)
    assert _sufficient_decrease(value, trial_value, slope, trial_slope, step).tolist() == list(expected)


def test_a_line_search_that_cannot_succeed_ends():
    """The value is -x, but the gradient by autograd is 1, so all steps increase the value."""
    objective = Counted(lambda x: (x - 2 * x.detach()).sum(dim=1))
    start = starts(2, 1)
    assert torch.equal(minimize(objective, start, max_iterations=500), start)
    assert objective.evaluations < 100


def test_the_number_of_iterations_is_limited():
    objective = Counted(rosenbrock)
    minimize(objective, starts(2, 4), max_iterations=7)
    assert objective.evaluations == 1 + 7


def test_minimization_works_without_gradient_mode():
    with torch.no_grad():
        found = minimize(lambda x: (x - 3).square().sum(dim=1), torch.zeros(2, 2))
    torch.testing.assert_close(found, torch.full((2, 2), 3.0))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_start_without_a_finite_value_is_refused(bad):
    start = torch.zeros(3, 2)
    start[1] = bad
    with pytest.raises(IgptError, match="Problem 1 has no finite value"):
        minimize(lambda x: x.square().sum(dim=1), start)
