"""decoder.c against the transformer, and sampling where decoder.c cannot be used."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import random_weights
from igpt.generation import c_decoder
from igpt.generation.autoregressive import generate
from igpt.generation.c_decoder import NativeDecoder, supports
from igpt.generation.sampling_config import SamplingConfig
from igpt.model.config import TransformerConfig

GREEDY = SamplingConfig(temperature=0)
needs_a_compiler = pytest.mark.usefixtures("compiler")


@pytest.fixture(scope="module")
def compiler():
    if c_decoder.library() is None:
        pytest.skip("this machine has no C compiler")


@pytest.fixture
def other_compiler(monkeypatch):
    """Sample as in a new process, with another value of CC."""
    c_decoder.library.cache_clear()
    yield lambda command: monkeypatch.setenv("CC", command)
    c_decoder.library.cache_clear()


def logits_one_by_one(model, tokens, prompt):
    """Logits (B, T - prompt, V) of the positions after a prompt."""
    cache = model.new_cache(len(tokens))
    with torch.no_grad():
        logits = [model.next_logits(tokens[:, :prompt], cache)]
        decoder = NativeDecoder(model, cache)
        logits += [decoder.next_logits(tokens[:, i]) for i in range(prompt, tokens.shape[1] - 1)]
    return torch.stack(logits, dim=1)


@needs_a_compiler
@settings(deadline=None)
@given(
    images=st.integers(1, 4),
    positions=st.integers(2, 40),
    layers=st.integers(1, 3),
    heads=st.integers(1, 5),
    head_size=st.integers(1, 35),
    colors=st.integers(1, 40),
    data=st.data(),
)
def test_logits_are_the_transformers(images, positions, layers, heads, head_size, colors, data):
    model = random_weights(TransformerConfig(layers, heads, heads * head_size, colors, positions))
    tokens = torch.randint(colors, (images, positions), generator=torch.Generator().manual_seed(1))
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
def test_weights_that_change_between_two_images_are_the_ones_used(tiny):
    prompt = torch.zeros(2, 1, dtype=torch.long)
    before = generate(tiny, prompt, sampling=GREEDY)
    with torch.no_grad():
        tiny.head.weight.neg_()
        after = generate(tiny, prompt, sampling=GREEDY)
        expected = tiny(after)[:, 1:].argmax(dim=-1)
    assert torch.equal(after[:, 1:], expected)
    assert not torch.equal(after, before)


@needs_a_compiler
@pytest.mark.parametrize("token", [[0], [0, 0, 0], [0, 11], [-1, 0]])
def test_tokens_that_do_not_fit_are_refused(tiny, token):
    cache = tiny.new_cache(2)
    cache.length = 3
    with pytest.raises(IndexError, match="after 3 positions"):
        NativeDecoder(tiny, cache).next_logits(torch.tensor(token))
    cache.length = 16
    with pytest.raises(IndexError, match="after 16 positions"):
        NativeDecoder(tiny, cache).next_logits(torch.tensor([0, 0]))


@needs_a_compiler
def test_other_integers_and_other_defaults_of_torch_change_nothing(tiny):
    prompt = torch.tensor([[3, 1], [4, 1]])
    expected = generate(tiny, prompt, sampling=GREEDY)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(generate(tiny, prompt.int(), sampling=GREEDY), expected.int())
    finally:
        torch.set_default_dtype(torch.float32)


@needs_a_compiler
def test_rounding_of_the_process_is_left_alone():
    """What -ffast-math would have done to it."""
    subnormal = torch.tensor([1e-39], dtype=torch.float32)
    assert (subnormal / 2).item() == pytest.approx(5e-40, rel=1e-3)


def test_other_precisions_are_left_to_torch(tiny):
    assert not supports(tiny, tiny.new_cache(1, torch.bfloat16))
    assert not supports(random_weights(tiny.config).double(), tiny.new_cache(1))


@pytest.mark.parametrize("command", ["no-such-compiler", "cc 'unfinished", "false"])
def test_without_a_compiler_torch_samples_the_same_after_one_hint(tiny, other_compiler, caplog, command):
    prompt = torch.zeros(3, 2, dtype=torch.long)
    expected = generate(tiny, prompt, sampling=GREEDY)
    c_decoder.library.cache_clear()
    caplog.clear()
    other_compiler(command)
    assert torch.equal(generate(tiny, prompt, sampling=GREEDY), expected)
    assert torch.equal(generate(tiny, prompt, sampling=GREEDY), expected)
    assert ["could compile decoder.c" in record.message for record in caplog.records] == [True]
    with pytest.raises(RuntimeError, match="could not be compiled"):
        NativeDecoder(tiny, tiny.new_cache(1))


@needs_a_compiler
def test_a_compiler_that_does_not_know_the_processor_is_asked_for_less(tmp_path, other_compiler):
    compiler = tmp_path / "cc"
    compiler.write_text('#!/bin/sh\ncase "$*" in *native*) exit 1;; esac\nexec cc "$@"\n')
    compiler.chmod(0o755)
    other_compiler(str(compiler))
    assert c_decoder.library() is not None


def test_a_compiler_that_fails_is_quoted(tmp_path, other_compiler, caplog):
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\necho 'no such option' >&2\nexit 1\n")
    compiler.chmod(0o755)
    other_compiler(f"{compiler} --quietly")
    assert c_decoder.library() is None
    assert "no such option" in caplog.text


def test_a_folder_that_cannot_be_written_leaves_it_to_torch(tmp_path, other_compiler, monkeypatch, caplog):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    assert c_decoder.library() is None
    assert "missing" in caplog.text
