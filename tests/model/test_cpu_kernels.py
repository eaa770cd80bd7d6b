"""The model's functions on CPUs against torch's own, in double precision where these are the exact ones."""

import copy

import pytest
import torch
from torch.nn import functional as F

from conftest import random_weights
from igpt.model import cpu_kernels
from igpt.model.config import TransformerConfig
from igpt.objectives.losses import autoregressive_nats


def random(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("shape", [(7,), (3, 5, 16), (2, 33, 130)])
def test_the_norm_has_torchs_values_bitwise_and_the_exact_gradients(shape):
    x, gain, dy = random(*shape), random(shape[-1], seed=1), random(*shape, seed=2)
    x.mul_(1e-3)[..., :1] = 0  # so small that eps counts
    assert torch.equal(cpu_kernels.rms_norm(x, gain, 1e-5), F.rms_norm(x, gain.shape, gain, 1e-5))
    found = gradients(lambda x, gain: cpu_kernels.rms_norm(x, gain, 1e-5), (x, gain), dy)
    exact = gradients(lambda x, gain: F.rms_norm(x, gain.shape, gain, 1e-5), (x.double(), gain.double()), dy.double())
    for one, other in zip(found, exact, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-4)


def gradients(function, inputs, g):
    inputs = [x.detach().requires_grad_() for x in inputs]
    return torch.autograd.grad(function(*inputs), inputs, g)


# Fewer heads and queries than a block has, as many, and more, which leaves a part of a block.
@pytest.mark.parametrize("shape", [(1, 1, 1, 8), (2, 3, 20, 8), (2, 8, 128, 16), (3, 7, 300, 4)])
@pytest.mark.parametrize("causal", [True, False])
def test_attention_is_torchs_up_to_rounding(shape, causal):
    q, k, v, g = (random(*shape, dtype=torch.bfloat16, seed=seed) for seed in range(4))
    exact = [x.double() for x in (q, k, v)]
    assert_close_on_average(
        cpu_kernels.attend(q, k, v, causal), F.scaled_dot_product_attention(*exact, is_causal=causal)
    )
    found = gradients(lambda *x: cpu_kernels.attend(*x, causal), (q, k, v), g)
    wanted = gradients(lambda *x: F.scaled_dot_product_attention(*x, is_causal=causal), exact, g.double())
    for one, other in zip(found, wanted, strict=True):
        assert_close_on_average(one, other)


def assert_close_on_average(found, exact):
    """bfloat16 has 8 bits: within 1% of the mean size."""
    assert found.dtype == torch.bfloat16
    assert (found.double() - exact).norm() <= 0.01 * exact.norm() + 1e-12


def test_a_causal_model_sees_nothing_that_comes_later():
    q, k, v = (random(1, 2, 200, 8, dtype=torch.bfloat16, seed=seed) for seed in range(3))
    before = cpu_kernels.attend(q, k, v, True)
    k[:, :, 150:], v[:, :, 150:] = 99, -99
    assert torch.equal(cpu_kernels.attend(q, k, v, True)[:, :, :150], before[:, :, :150])


@pytest.fixture
def model():
    return random_weights(TransformerConfig(2, 2, 16, vocab_size=11, n_positions=16), std=0.1).train()


def step(model, tokens):
    """The loss in bfloat16, and all gradients."""
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        loss = autoregressive_nats(model(tokens), tokens).mean()
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters()}


def test_checkpointed_blocks_have_bitwise_the_same_gradients(model):
    tokens = torch.randint(11, (3, 16))
    loss, plain = step(model, tokens)
    model.checkpointing = True
    again, checkpointed = step(model, tokens)
    assert torch.equal(loss, again)
    torch.testing.assert_close(checkpointed, plain, rtol=0, atol=0)


def test_compiled_blocks_compute_the_same(model):
    tokens = torch.randint(11, (3, 16))
    loss, plain = step(model, tokens)
    compiled = copy.deepcopy(model)
    compiled.compile()
    again, found = step(compiled, tokens)
    torch.testing.assert_close(again, loss, rtol=1e-3, atol=1e-3)
    for name, gradient in plain.items():
        assert (found[name] - gradient).norm() <= 0.02 * gradient.norm(), name
