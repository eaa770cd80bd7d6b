"""However the network is changed, sampling computes what the full forward pass computes."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from conftest import random_weights
from igpt.generation import c_decoder
from igpt.generation.autoregressive import generate
from igpt.generation.sampling_config import SamplingConfig
from igpt.model.transformer import MLP, Attention, Block, LearnedPositions, QuickGELU, RMSNorm


def rotate(x, at):
    """Queries or keys (B, h, t, d) turned by angles that grow with their positions."""
    half = x.shape[-1] // 2
    angles = torch.arange(16)[at][:, None] * 100 ** -(torch.arange(half) / half)  # (t, d / 2)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * angles.cos() - b * angles.sin(), a * angles.sin() + b * angles.cos()], dim=-1)


class RotaryAttention(Attention):
    """Rotary positions (Su et al. 2021)."""

    def project(self, x, shared):
        q, k, v = super().project(x, shared)
        return rotate(q, shared.at), rotate(k, shared.at), v


class ReluSquared(MLP):
    def activate(self, x):
        return F.relu(x).square()


class LayerNorm(nn.LayerNorm):
    def __init__(self, config):
        super().__init__(config.n_embd)


class NoPositions(nn.Module):
    def __init__(self, config):
        super().__init__()

    def forward(self, x, at):
        return x


VARIANTS = [
    {"attention": RotaryAttention, "positions": NoPositions},
    {"mlp": ReluSquared},
    {"norm": LayerNorm},
]


def paths(parts):
    return {kind: f"{part.__module__}.{part.__qualname__}" for kind, part in parts.items()}


def assert_samples_as_it_predicts(model, compile=False):
    """Greedy tokens are those of the full forward pass, position by position."""
    prompt = torch.randint(11, (3, 4), generator=torch.Generator().manual_seed(2))
    tokens = F.pad(prompt, (0, 12))
    with torch.no_grad():
        for position in range(4, 16):
            tokens[:, position] = model(tokens)[:, position].argmax(dim=-1)
    assert torch.equal(generate(model, prompt, sampling=SamplingConfig(temperature=0, compile=compile)), tokens)


@pytest.mark.parametrize("parts", VARIANTS)
def test_a_variant_samples_as_it_predicts(tiny, parts):
    model = random_weights(replace(tiny.config, **paths(parts)))
    tokens = torch.randint(11, (1, 16))
    assert not torch.allclose(model(tokens), tiny(tokens))
    assert not c_decoder.supports(model, model.new_cache(1))
    assert_samples_as_it_predicts(model)


def test_a_variant_compiles_to_one_graph(tiny, monkeypatch):
    parts = {kind: part for variant in VARIANTS for kind, part in variant.items()}
    torch._dynamo.reset()
    graph = partial(torch.compile, backend="eager", fullgraph=True)
    monkeypatch.setattr(torch, "compile", lambda step, mode, dynamic: graph(step, dynamic=dynamic))
    with torch._dynamo.config.patch(error_on_recompile=True):
        model = random_weights(replace(tiny.config, **paths(parts)))
        assert_samples_as_it_predicts(model, compile=True)
        assert_samples_as_it_predicts(model, compile=True)


def parallel_block(block, x, shared, cache=None):
    return x + block.attn(block.attn_norm(x), shared, cache) + block.mlp(block.mlp_norm(x))


def only_the_last_three(attention, x, shared, cache=None, mix=None):
    """Causal attention to the three latest positions."""
    q, k, v = attention.project(x, shared)
    k, v = (k, v) if cache is None else cache.append(k, v)
    n = k.shape[2]
    near = torch.ones(n, n, dtype=torch.bool).tril().triu(-2)[n - x.shape[1] :]
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=near)
    return attention.out(y.transpose(1, 2).flatten(2))


def rotary_projection(attention, x, shared, project=Attention.project):
    q, k, v = project(attention, x, shared)
    return rotate(q, shared.at), rotate(k, shared.at), v


EDITS = {
    "rotary attention": (Attention, "project", rotary_projection),
    "sliding window": (Attention, "forward", only_the_last_three),
    "another activation": (QuickGELU, "forward", lambda self, x: self.out(F.relu(self.fc(x)))),
    "norm without gain": (RMSNorm, "forward", lambda self, x: F.rms_norm(x, x.shape[-1:])),
    "doubled positions": (LearnedPositions, "forward", lambda self, x, at: x + 2 * self.weight[at]),
    "parallel blocks": (Block, "forward", parallel_block),
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_class_edited_in_place_samples_as_it_predicts_and_warns_once(tiny, monkeypatch, caplog, edit):
    changed, method, function = EDITS[edit]
    tokens = torch.zeros(1, 16, dtype=torch.long)
    before = tiny(tokens)
    monkeypatch.setattr(changed, method, function)
    assert not torch.allclose(tiny(tokens), before)
    assert_samples_as_it_predicts(tiny)
    if c_decoder.library() is not None:
        assert [record.message for record in caplog.records if "decoder.c" in record.message] == [c_decoder.DIFFERS]


def add_bias(model):
    model.blocks[1].attn.out.bias = nn.Parameter(torch.ones(16))


def derive_class(model):
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    model.blocks[0].attn.qkv.__class__ = Doubled


def replace_forward(model):
    model.head.forward = lambda x: -F.linear(x, model.head.weight)


def add_hook(model):
    model.blocks[1].register_forward_hook(lambda block, arguments, output: output + 1)


def add_hook_before(model):
    model.blocks[0].mlp.register_forward_pre_hook(lambda mlp, arguments: (2 * arguments[0],))


def change_eps(model):
    model.blocks[1].mlp_norm.eps = 1.0


def parametrize(model):
    nn.utils.parametrizations.weight_norm(model.blocks[0].mlp.out)
    model.blocks[0].mlp.out.parametrizations.weight.original0.data *= 3


CHANGES = [add_bias, derive_class, replace_forward, add_hook, add_hook_before, change_eps, parametrize]


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_module_samples_as_it_predicts(tiny, change):
    cache = tiny.new_cache(1)
    if c_decoder.library() is not None:
        assert c_decoder.supports(tiny, cache)
    tokens = torch.zeros(1, 16, dtype=torch.long)
    before = tiny(tokens)
    change(tiny)
    assert not torch.allclose(tiny(tokens), before)
    assert not c_decoder.supports(tiny, cache)
    assert_samples_as_it_predicts(tiny)
