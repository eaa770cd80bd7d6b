import os
import signal
import time
from functools import partial

import pytest
import torch
from torch.nn import functional as F

from conftest import random_weights
from igpt.errors import IgptError
from igpt.generation import c_decoder
from igpt.generation.autoregressive import generate, torch_threads
from igpt.generation.choose import choose_token
from igpt.generation.noise import Noise
from igpt.generation.sampling_config import SamplingConfig
from igpt.generation.steps import is_small_step, prefers_image_threads
from igpt.model.config import TransformerConfig

GREEDY = SamplingConfig(temperature=0)


@pytest.mark.parametrize("prompt", [0, 5, 16])
def test_greedy_images_equal_the_uncached_loop(tiny, prompt):
    given_tokens = torch.randint(11, (3, prompt))
    tokens = torch.cat([given_tokens, torch.zeros(3, 16 - prompt, dtype=torch.long)], 1)
    with torch.no_grad():
        for position in range(prompt, 16):
            tokens[:, position] = tiny(tokens)[:, position].argmax(-1)
    torch.testing.assert_close(generate(tiny, given_tokens, sampling=GREEDY), tokens)


@pytest.mark.parametrize("prompt", [0, 5, 16])
def test_samples_equal_the_uncached_loop_under_the_same_noise(tiny, prompt):
    """Prompts 2 and 3 of a larger request, copies 1 to 3 of each: position t takes the noise of position t."""
    sampling, noise = SamplingConfig(0.8, top_k=7, top_p=0.9), Noise(5, range(2, 4), range(1, 4))
    given_tokens = torch.randint(11, (2, prompt))
    tokens = F.pad(given_tokens, (0, 16 - prompt)).repeat_interleave(3, dim=0)
    integers = noise.integers(16)
    with torch.no_grad():
        for position in range(prompt, 16):
            tokens[:, position] = choose_token(tiny(tokens)[:, position], integers[:, position], sampling)
    torch.testing.assert_close(generate(tiny, given_tokens, noise, sampling), tokens)


def test_compiled_greedy_images_are_the_same_from_one_graph(tiny, monkeypatch):
    prompts, noise = torch.randint(11, (2, 5)), Noise(0, range(2), range(2))
    expected = generate(tiny, prompts, noise, GREEDY)
    torch._dynamo.reset()
    graph = partial(torch.compile, backend="eager", fullgraph=True)  # what inductor makes of it is torch's concern
    monkeypatch.setattr(torch, "compile", lambda step, mode, dynamic: graph(step, dynamic=dynamic))
    with torch._dynamo.config.patch(error_on_recompile=True):
        compiled = generate(tiny, prompts, noise, SamplingConfig(temperature=0, compile=True))
    torch.testing.assert_close(compiled, expected)


def test_samples_follow_the_models_distribution(tiny):
    """The first token by a chi-square test, and the second given the first."""
    n = 20_000
    tokens = generate(tiny, torch.empty(1, 0, dtype=torch.long), Noise(0, range(1), range(n)))
    with torch.no_grad():
        expected = n * tiny(torch.zeros(1, 16, dtype=torch.long))[0, 0].softmax(-1)
        observed = torch.bincount(tokens[:, 0], minlength=11)
        assert ((observed - expected) ** 2 / expected).sum() < 30  # 10 degrees of freedom, p = 0.001
        common = tokens[:, 0].mode().values
        after = tokens[tokens[:, 0] == common, 1]
        prompt = F.pad(common.view(1, 1), (0, 15))
        expected = len(after) * tiny(prompt)[0, 1].softmax(-1)
    observed = torch.bincount(after, minlength=11)
    assert ((observed - expected) ** 2 / expected.clamp(min=1)).sum() < 30


def test_torchs_generator_is_neither_read_nor_changed(tiny):
    prompts = torch.empty(1, 0, dtype=torch.long)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = generate(tiny, prompts, Noise(0, range(1), range(4)))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(generate(tiny, prompts, Noise(0, range(1), range(4))), first)


def test_a_masked_model_does_not_generate():
    model = random_weights(TransformerConfig(1, 1, 8, vocab_size=4, n_positions=4, causal=False))
    with pytest.raises(IgptError, match="only an autoregressive model generates"):
        generate(model, torch.empty(1, 0, dtype=torch.long))


@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize(("threads", "shares"), [(1, {6}), (2, {6, 3}), (4, {6, 2, 1})])
def test_threads_share_the_images_and_do_not_change_them(tiny, monkeypatch, temperature, threads, shares):
    if c_decoder.library() is None:
        pytest.skip("this machine has no C compiler")
    arguments = torch.zeros(3, 2, dtype=torch.long), Noise(0, range(3), range(2)), SamplingConfig(temperature)
    expected, batch_sizes = generate(tiny, *arguments), set()

    def noting(logits, *others):
        batch_sizes.add(len(logits))
        return choose_token(logits, *others)

    monkeypatch.setattr("igpt.generation.autoregressive.choose_token", noting)
    with torch_threads(threads):
        assert torch.equal(generate(tiny, *arguments), expected)
    assert batch_sizes == shares


def test_ctrl_c_stops_all_threads(tiny, monkeypatch, terminal):
    if c_decoder.library() is None:
        pytest.skip("this machine has no C compiler")
    steps = []

    def slow(logits, noise, sampling):
        steps.append(len(logits))
        if len(steps) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)
        return logits.argmax(dim=-1)

    monkeypatch.setattr("igpt.generation.autoregressive.choose_token", slow)
    with torch_threads(2), pytest.raises(KeyboardInterrupt):
        generate(tiny, torch.zeros(4, 1, dtype=torch.long))
    assert len(steps) < 29  # which whole images take


@pytest.mark.parametrize(("n_positions", "prompt", "images"), [(1, 0, 2), (4, 3, 2), (4, 4, 2), (4, 1, 0)])
def test_little_to_generate(n_positions, prompt, images):
    model = random_weights(TransformerConfig(1, 1, 8, vocab_size=5, n_positions=n_positions))
    tokens = generate(model, torch.ones(images, prompt, dtype=torch.long))
    assert tokens.shape == (images, n_positions)
    assert (tokens[:, :prompt] == 1).all()


@pytest.mark.parametrize(("threads", "limit", "expected"), [(4, 0, True), (5, 0, False), (5, 2**26, True)])
def test_large_models_on_many_cores_are_left_to_torch(tiny, monkeypatch, threads, limit, expected):
    monkeypatch.setattr("igpt.generation.steps.LARGE_MODEL", limit)
    with torch_threads(threads):
        assert prefers_image_threads(tiny) == expected


@pytest.mark.parametrize(("images", "small"), [(1, True), (2**19, False)])
def test_steps_of_few_images_of_a_small_model_are_small(tiny, images, small):
    assert is_small_step(tiny, images) == small
