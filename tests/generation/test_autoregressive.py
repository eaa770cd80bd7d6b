import os
import signal
import time
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conftest import random_weights
from igpt.errors import IgptError
from igpt.generation import c_decoder
from igpt.generation.autoregressive import (
    bytes_a_picture,
    choose,
    exponential_noise,
    filter_logits,
    generate,
    torch_threads,
)
from igpt.generation.steps import is_small_step, prefers_image_threads
from igpt.model.config import TransformerConfig
from igpt.objectives.tasks import Autoregressive
from igpt.pretrained import Pretrained
from igpt.tokenizers import Palette


@given(
    seed=st.integers(0, 1000),
    temperature=st.floats(0.2, 3),
    top_k=st.one_of(st.none(), st.integers(1, 12)),
    top_p=st.floats(0.05, 1),
)
def test_filter_keeps_what_a_loop_keeps(seed, temperature, top_k, top_p):
    logits = torch.randn(3, 10, generator=torch.Generator().manual_seed(seed))
    filtered = filter_logits(logits, temperature, top_k, top_p).softmax(-1).numpy()
    for row, result in zip(logits.numpy().astype(np.float64) / temperature, filtered, strict=True):
        ranked = list(np.argsort(-row))[:top_k]
        weights = np.exp(row[ranked] - row.max())
        weights /= weights.sum()
        kept, total = [], 0.0
        for token, weight in zip(ranked, weights, strict=True):
            if total >= top_p - 1e-6:
                break
            kept.append(token)
            total += weight
        expected = np.zeros(10)
        expected[kept] = np.exp(row[kept] - row.max())
        borderline = abs(total - weights[len(kept) - 1] - top_p) < 1e-5 or abs(total - top_p) < 1e-5
        if not borderline:
            np.testing.assert_allclose(result, expected / expected.sum(), atol=1e-5)


@pytest.mark.parametrize("prompt", [0, 5, 16])
def test_greedy_pictures_equal_the_uncached_loop(tiny, prompt):
    given_tokens = torch.randint(11, (3, prompt))
    tokens = torch.cat([given_tokens, torch.zeros(3, 16 - prompt, dtype=torch.long)], 1)
    with torch.no_grad():
        for position in range(prompt, 16):
            tokens[:, position] = tiny(tokens)[:, position].argmax(-1)
    torch.testing.assert_close(generate(tiny, given_tokens, temperature=0), tokens)


@pytest.mark.parametrize("prompt", [0, 5, 16])
@pytest.mark.parametrize("how", [{"temperature": 0}, {"top_p": 0.9}])
def test_pictures_of_one_prompt_are_those_of_the_repeated_prompt(tiny, prompt, how):
    prompts = torch.randint(11, (2, prompt))

    def draw(prompts, n):
        return generate(tiny, prompts, torch.Generator().manual_seed(3), n=n, **how)

    torch.testing.assert_close(draw(prompts, 4), draw(prompts.repeat_interleave(4, dim=0), 1))


def test_compiled_greedy_pictures_are_the_same_from_one_graph(tiny, monkeypatch):
    prompt = torch.randint(11, (2, 5))
    expected = generate(tiny, prompt, temperature=0, n=2)
    graph = partial(torch.compile, backend="eager", fullgraph=True)  # what inductor makes of it is torch's concern
    monkeypatch.setattr(torch, "compile", lambda step, mode, dynamic: graph(step, dynamic=dynamic))
    with torch._dynamo.config.patch(error_on_recompile=True):
        torch.testing.assert_close(generate(tiny, prompt, temperature=0, n=2, compile=True), expected)


@pytest.mark.parametrize(("n", "fit"), [(1, 3), (2, 5), (5, 3)])
def test_pictures_are_drawn_as_many_at_once_as_their_cache_fits(tiny, monkeypatch, n, fit):
    palette = Palette(torch.rand(11, 3, generator=torch.Generator().manual_seed(0)).numpy() * 255)
    pretrained = Pretrained(tiny, palette, Autoregressive())
    images = palette.decode(torch.randint(11, (4, 16))).numpy()
    whole = pretrained.complete(images, n, temperature=0)
    at_once = []

    def counting(model, prompt, generator, n, **how):
        at_once.append(len(prompt) * n)
        return generate(model, prompt, generator, n=n, **how)

    monkeypatch.setattr("igpt.pretrained.generate", counting)
    pretrained.drawing_limit = fit * bytes_a_picture(tiny.config, torch.float32)
    np.testing.assert_array_equal(pretrained.complete(images, n, temperature=0), whole)
    assert sum(at_once) == 4 * n
    assert max(at_once) <= fit


def test_choices_are_those_of_multinomial():
    logits = torch.randn(50, 9)
    expected = torch.multinomial((logits / 0.7).softmax(-1), 1, generator=torch.Generator().manual_seed(5))[:, 0]
    noise = torch.empty(50, 9).exponential_(generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(choose(logits, noise, temperature=0.7), expected)


def test_samples_follow_the_models_distribution(tiny):
    first = generate(tiny, torch.empty(20_000, 0, dtype=torch.long), torch.Generator().manual_seed(0))[:, 0]
    with torch.no_grad():
        expected = tiny(torch.zeros(1, 16, dtype=torch.long))[0, 0].softmax(-1)
    frequencies = torch.bincount(first, minlength=11) / len(first)
    torch.testing.assert_close(frequencies, expected, atol=0.015, rtol=0)


def test_the_seed_fixes_the_picture(tiny):
    def draw(seed):
        return generate(tiny, torch.empty(2, 0, dtype=torch.long), torch.Generator().manual_seed(seed))

    torch.testing.assert_close(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


@pytest.mark.parametrize("bad", [{"temperature": -1.0}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}])
def test_impossible_settings_are_refused(tiny, bad):
    with pytest.raises(IgptError, match="temperature must be at least 0"):
        generate(tiny, torch.empty(1, 0, dtype=torch.long), **bad)


def test_a_masked_model_does_not_draw():
    model = random_weights(TransformerConfig(1, 1, 8, vocab_size=4, n_positions=4, causal=False))
    with pytest.raises(IgptError, match="only an autoregressive model generates"):
        generate(model, torch.empty(1, 0, dtype=torch.long))


@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize(("threads", "shares"), [(1, {6}), (2, {6, 3}), (4, {6, 2, 1})])
def test_threads_share_the_pictures_and_do_not_change_them(tiny, monkeypatch, temperature, threads, shares):
    if c_decoder.library() is None:
        pytest.skip("this machine has no C compiler")
    prompt, pictures_at_once = torch.zeros(3, 2, dtype=torch.long), set()
    expected = generate(tiny, prompt, torch.Generator().manual_seed(0), temperature, n=2)

    def noting(logits, *arguments, **options):
        pictures_at_once.add(len(logits))
        return choose(logits, *arguments, **options)

    monkeypatch.setattr("igpt.generation.autoregressive.choose", noting)
    with torch_threads(threads):
        drawn = generate(tiny, prompt, torch.Generator().manual_seed(0), temperature, n=2)
    assert torch.equal(drawn, expected)
    assert pictures_at_once == shares


def test_ctrl_c_stops_all_threads(tiny, monkeypatch, terminal):
    if c_decoder.library() is None:
        pytest.skip("this machine has no C compiler")
    steps = []

    def slow(logits, noise, **options):
        steps.append(len(logits))
        if len(steps) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)
        return logits.argmax(dim=-1)

    monkeypatch.setattr("igpt.generation.autoregressive.choose", slow)
    with torch_threads(2), pytest.raises(KeyboardInterrupt):
        generate(tiny, torch.zeros(4, 1, dtype=torch.long))
    assert len(steps) < 29  # which whole pictures take


@pytest.mark.parametrize(("n_positions", "prompt", "pictures"), [(1, 0, 2), (4, 3, 2), (4, 4, 2), (4, 1, 0)])
def test_little_to_draw(n_positions, prompt, pictures):
    model = random_weights(TransformerConfig(1, 1, 8, vocab_size=5, n_positions=n_positions))
    tokens = generate(model, torch.ones(pictures, prompt, dtype=torch.long), temperature=0)
    assert tokens.shape == (pictures, n_positions)
    assert (tokens[:, :prompt] == 1).all()


@pytest.mark.parametrize(("threads", "limit", "expected"), [(4, 0, True), (5, 0, False), (5, 2**26, True)])
def test_large_models_on_many_cores_are_left_to_torch(tiny, monkeypatch, threads, limit, expected):
    monkeypatch.setattr("igpt.generation.steps.LARGE_MODEL", limit)
    with torch_threads(threads):
        assert prefers_image_threads(tiny) == expected


def test_what_a_picture_takes_is_what_is_kept_for_it(tiny, monkeypatch):
    kept = []

    def noting(*arguments):
        kept.append(exponential_noise(*arguments))
        return kept[-1]

    monkeypatch.setattr("igpt.generation.autoregressive.exponential_noise", noting)
    generate(tiny, torch.empty(3, 0, dtype=torch.long))
    assert kept[0].nbytes + tiny.new_cache(3).storage.nbytes == 3 * bytes_a_picture(tiny.config, torch.float32)


@pytest.mark.parametrize(("pictures", "small"), [(1, True), (2**19, False)])
def test_steps_of_few_pictures_of_a_small_model_are_small(tiny, pictures, small):
    assert is_small_step(tiny, pictures) == small
