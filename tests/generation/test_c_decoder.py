"""decoder.c against the transformer, and sampling where decoder.c cannot be used."""

from dataclasses import replace

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


SIZES = {
    "images": st.integers(1, 4),
    "positions": st.integers(2, 40),
    "layers": st.integers(1, 3),
    "heads": st.integers(1, 5),
    "colors": st.integers(1, 40),
}
PARTS = {
    "positions": st.sampled_from(["learned", "none"]),
    "mlp": st.sampled_from(["quick_gelu", "gelu", "relu2", "swiglu"]),
    "rotary": st.sampled_from([None, "1d", "2d"]),
    "value_embedding": st.sampled_from([(), (0,), (-1,), (0, -1)]),
    "logit_softcap": st.sampled_from([None, 3.0]),
    **dict.fromkeys(["qk_norm", "value_residual", "input_shortcut", "embedding_norm"], st.booleans()),
}


def assert_same_logits(model, tokens, prompt):
    """Those of decoder.c, after a prompt, are those that the model has for the whole sequence in float64."""
    with torch.no_grad():
        expected = model.double()(tokens)[:, prompt:].float()
    assert supports(model.float(), model.new_cache(1))
    difference = logits_one_by_one(model, tokens, prompt) - expected
    assert difference.abs().max() <= 2e-5 * expected.abs().max()


@needs_a_compiler
@settings(deadline=None)
@given(**SIZES, head_size=st.integers(1, 35), data=st.data())
def test_logits_are_the_transformers(images, positions, layers, heads, colors, head_size, data):
    model = random_weights(TransformerConfig(layers, heads, heads * head_size, colors, positions))
    tokens = torch.randint(colors, (images, positions), generator=torch.Generator().manual_seed(1))
    assert_same_logits(model, tokens, prompt=data.draw(st.integers(0, positions - 1)))


@needs_a_compiler
@settings(deadline=None)
@given(**SIZES, head_size=st.sampled_from([4, 12, 32]), parts=st.fixed_dictionaries(PARTS), data=st.data())
def test_logits_are_the_transformers_whatever_its_parts(
    images, positions, layers, heads, colors, head_size, parts, data
):
    model = random_weights(TransformerConfig(layers, heads, heads * head_size, colors, positions, **parts))
    tokens = torch.randint(colors, (images, positions), generator=torch.Generator().manual_seed(1))
    assert_same_logits(model, tokens, prompt=data.draw(st.integers(0, positions - 1)))


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


def test_a_masked_model_is_left_to_torch(tiny):
    model = random_weights(replace(tiny.config, causal=False))
    assert not supports(model, model.new_cache(1))


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
