"""Fits of the loss as a function of parameters and tokens, and the proposals of igpt-plan."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize as scipy_minimize

from igpt.errors import IgptError
from igpt.model.config import TransformerConfig
from igpt.planning.compute import measure
from igpt.planning.proposal import HEADS, propose
from igpt.planning.scaling_law import HUBER, ScalingLaw, fit_scaling_law

TRUE = (0.6, 0.05, 0.4, 0.12, 0.5)  # E, A, alpha, B, beta, of N and D in millions
SIZES = np.repeat(np.array([0.15, 0.45, 1.2, 2.5]) * 1e6, 3)
FLOPS = np.tile([6e12, 2e13, 6e13], 4)
TOKENS = FLOPS / (8 * SIZES)
ABOUT = {"data": "clothes", "n_positions": 196, "vocab_size": 16}


def law_loss(coefficients, parameters, tokens):
    e, a, alpha, b, beta = coefficients
    return e + a / (parameters / 1e6) ** alpha + b / (tokens / 1e6) ** beta


LOSSES = law_loss(TRUE, SIZES, TOKENS)


def noisy(seed, deviation=0.002):
    return LOSSES * np.exp(deviation * np.random.default_rng(seed).standard_normal(len(LOSSES)))


@pytest.fixture(scope="module")
def law():
    return fit_scaling_law(SIZES, TOKENS, noisy(1), FLOPS, **ABOUT)


# Fits


@pytest.mark.parametrize("true", [TRUE, (0.9, 0.3, 0.2, 0.5, 0.9), (0.05, 1.0, 0.3, 1.0, 0.3)])
def test_known_coefficients_are_found(true):
    found = fit_scaling_law(SIZES, TOKENS, law_loss(true, SIZES, TOKENS), FLOPS, **ABOUT)
    assert found.coefficients == pytest.approx(true, rel=2e-3)
    assert found.loss(1e7, 1e9) == pytest.approx(law_loss(true, 1e7, 1e9), rel=1e-3)


def test_no_other_minimizer_finds_a_lower_huber_loss(law):
    log_n, log_d, log_loss = np.log(SIZES / 1e6), np.log(TOKENS / 1e6), np.log(noisy(1))

    def objective(theta):
        e, a, alpha, b, beta = np.exp(theta)
        size = np.abs(np.log(e + a * np.exp(-alpha * log_n) + b * np.exp(-beta * log_d)) - log_loss)
        return 1e6 * np.where(size < HUBER, size**2 / 2, HUBER * (size - HUBER / 2)).sum()

    options = {"maxiter": 4000, "maxfev": 4000, "xatol": 1e-9, "fatol": 1e-9}
    starts = [np.log(TRUE), np.log(law.coefficients), np.log([0.5, 0.1, 0.5, 0.1, 0.5])]
    best = min(scipy_minimize(objective, start, method="Nelder-Mead", options=options).fun for start in starts)
    assert objective(np.log(law.coefficients)) <= best * 1.001


def test_one_bad_run_changes_little():
    bad = LOSSES.copy()
    bad[5] *= 1.1
    assert fit_scaling_law(SIZES, TOKENS, bad, FLOPS, **ABOUT).loss(1e6, 5e6) == pytest.approx(
        law_loss(TRUE, 1e6, 5e6), rel=1e-2
    )


def test_the_error_is_about_the_spread_over_repeated_experiments(law):
    many = [fit_scaling_law(SIZES, TOKENS, noisy(seed), FLOPS, resamples=1, **ABOUT) for seed in range(30)]
    for point in ((1e6, 5e6), (2e6, 1e7)):
        spread = np.std([one.loss(*point) for one in many])
        assert spread / 2 < law.loss_error(*point) < 2 * spread
    assert law.noise == pytest.approx(0.002, rel=0.5)


@pytest.mark.parametrize("chosen", [slice(5), slice(0, 3), [0] * 8])
def test_too_few_runs_are_refused(chosen):
    with pytest.raises(IgptError, match="A scaling law needs 6 runs or more"):
        fit_scaling_law(SIZES[chosen], TOKENS[chosen], LOSSES[chosen], FLOPS[chosen], **ABOUT)


def test_a_law_survives_its_file(law):
    assert ScalingLaw.from_json(json.loads(json.dumps(law.as_json()))) == law
    for wrong in ({}, [1], {**law.as_json(), "coefficients": [1.0]}):
        with pytest.raises(IgptError, match="no scaling law"):
            ScalingLaw.from_json(wrong)


# Proposals

NANO = TransformerConfig(n_layer=6, n_head=4, n_embd=128, vocab_size=16, n_positions=196)


@pytest.mark.parametrize("budget", [6e12, 6e13, 1e15])
def test_the_proposal_has_the_lowest_loss_of_all_shapes(law, budget):
    found = propose(law, budget, NANO, batch_size=16)
    losses = []
    for heads in HEADS[:12]:
        config = replace(NANO, n_head=heads, n_embd=32 * heads, n_layer=max(1, round(heads * 1.5)))
        size = measure(config)
        if steps := int(budget // (16 * size.flops)):
            losses.append(law.loss(size.parameters, steps * 16 * 196))
    assert found.loss == min(losses)
    assert budget - 16 * found.size.flops < found.flops <= budget


def test_networks_without_the_named_blocks_are_not_proposed(law):
    shape = replace(NANO, value_embedding=(0, 3, -1))
    assert propose(law, 6e12, shape, batch_size=16).model.n_layer >= 4


def test_a_proposal_outside_of_the_range_warns(law):
    assert propose(law, 2e13, NANO, batch_size=16).warnings == []
    (warning,) = propose(law, 1e16, NANO, batch_size=16).warnings
    assert "1e+16 FLOPs (fitted from 6e+12 to 6e+13)" in warning
    (warning,) = propose(law, 2e13, replace(NANO, vocab_size=128), batch_size=16).warnings
    assert "The law is for clothes: 196 tokens of 16 values, not 196 of 128." in warning


def test_a_budget_below_one_step_is_refused(law):
    with pytest.raises(IgptError, match="budget=1e\\+06 FLOPs is less than one step of 16 images"):
        propose(law, 1e6, NANO, batch_size=16)


# igpt-plan


def test_the_plan_is_that_of_the_proposal(law, command, tmp_path):
    (tmp_path / "law 1.json").write_text(json.dumps(law.as_json()))
    text = command("plan", "experiment=fashion_ar", "scaling_fit=law 1.json", "budget=2e13", "data.batch_size=16")
    found = propose(law, 2e13, NANO, batch_size=16)
    model = found.model
    assert f"model.n_layer={model.n_layer} model.n_head={model.n_head} model.n_embd={model.n_embd}" in text
    assert f"trainer.max_steps={found.steps}" in text
    assert f"parameters          {found.size.parameters:,}" in text
    assert "2e+13" in text
    assert "warning" not in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["scaling_fit=law.json"], "give both"),
        (["budget=1e12"], "give both"),
        (["budget=0", "scaling_fit=law.json"], "above 0"),
        (["budget=1e12", "scaling_fit=law.json"], "law.json cannot be read"),
    ],
)
def test_what_makes_no_proposal_is_refused(arguments, said, command):
    with pytest.raises(SystemExit, match=said):
        command("plan", "experiment=fashion_ar", *arguments)
