"""decoder.c against the transformer it decodes; and what becomes of drawing where it cannot be had."""

import logging
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import random_weights
from igpt.model import native
from igpt.model.config import TransformerConfig
from igpt.model.native import NativeDecoder, can_decode
from igpt.sampling import generate

needs_a_compiler = pytest.mark.skipif(native.library() is None, reason="this machine has no C compiler")


def logits_one_by_one(model, tokens, prompt):
    """Logits (B, T - prompt, V) of the positions after a prompt."""
    cache = model.new_cache(len(tokens))
    with torch.no_grad():
        logits = [model.prompt_logits(tokens[:, :prompt], cache)]
        decoder = NativeDecoder(model, cache)
        logits += [decoder.next_logits(tokens[:, i]) for i in range(prompt, tokens.shape[1] - 1)]
    return torch.stack(logits, dim=1)


@needs_a_compiler
@settings(deadline=None)
@given(
    pictures=st.integers(1, 4),
    positions=st.integers(2, 40),
    layers=st.integers(1, 3),
    heads=st.integers(1, 5),
    head_size=st.integers(1, 35),
    colours=st.integers(1, 40),
    data=st.data(),
)
def test_logits_are_the_transformers(pictures, positions, layers, heads, head_size, colours, data):
    model = random_weights(TransformerConfig(layers, heads, heads * head_size, colours, positions))
    tokens = torch.randint(colours, (pictures, positions), generator=torch.Generator().manual_seed(1))
    prompt = data.draw(st.integers(0, positions - 1))
    with torch.no_grad():
        expected = model.double()(tokens)[:, prompt:].float()
    scale = expected.abs().max()
    difference = logits_one_by_one(model.float(), tokens, prompt) - expected
    assert difference.abs().max() <= 2e-5 * scale


@needs_a_compiler
@pytest.mark.parametrize("size", [0.01, 30.0])
def test_small_and_huge_scores_and_activations_stay_exact(size):
    model = random_weights(TransformerConfig(1, 2, 32, vocab_size=11, n_positions=16))
    with torch.no_grad():
        model.blocks[0].attn_norm.gain.mul_(size)  # softmax from nearly even to nearly all on one key
        model.blocks[0].mlp_norm.gain.mul_(size)
        tokens = torch.randint(11, (2, 16), generator=torch.Generator().manual_seed(1))
        expected = model.double()(tokens).float()
    torch.testing.assert_close(logits_one_by_one(model.float(), tokens, 0), expected, rtol=1e-4, atol=1e-5 * size)


@needs_a_compiler
def test_weights_that_change_between_two_pictures_are_the_ones_used(tiny):
    before = generate(tiny, torch.zeros(1, 1, dtype=torch.long), temperature=0)
    with torch.no_grad():
        tiny.head.weight.neg_()
        expected = tiny(before)[:, 1].argmax(dim=-1)
    assert generate(tiny, before[:, :1], temperature=0)[:, 1] == expected


@needs_a_compiler
def test_rounding_of_the_process_is_left_alone():
    """What -ffast-math would have done to it."""
    subnormal = torch.tensor([1e-39], dtype=torch.float32)
    assert (subnormal / 2).item() == pytest.approx(5e-40, rel=1e-3)
    assert math.ldexp(1.0, -1074) > 0


def test_other_precisions_and_a_missing_compiler_leave_it_to_torch(tiny, monkeypatch, caplog):
    prompt = torch.zeros(3, 2, dtype=torch.long)
    expected = generate(tiny, prompt, temperature=0)
    assert not can_decode(tiny, tiny.new_cache(1, torch.bfloat16))
    assert not can_decode(random_weights(tiny.config).double(), tiny.new_cache(1))
    native.library.cache_clear()
    monkeypatch.setenv("CC", "no-such-compiler")
    try:
        with caplog.at_level(logging.WARNING):
            assert torch.equal(generate(tiny, prompt, temperature=0), expected)
            assert torch.equal(generate(tiny, prompt, temperature=0), expected)
        assert [record.message.count("no-such-compiler") for record in caplog.records] == [1]
        with pytest.raises(RuntimeError, match="could not be compiled"):
            NativeDecoder(tiny, tiny.new_cache(1))
    finally:
        native.library.cache_clear()


def test_a_compiler_that_fails_is_quoted(tmp_path, monkeypatch, caplog):
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\necho 'no such option' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    native.library.cache_clear()
    try:
        assert native.library() is None
    finally:
        native.library.cache_clear()
    assert "no such option" in caplog.text
