import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conftest import random_weights
from igpt.errors import IgptError
from igpt.generation.noise import Noise
from igpt.generation.parallel_decoding import decode_parallel, still_unknown
from igpt.generation.sampling_config import SamplingConfig
from igpt.model.config import TransformerConfig


@pytest.fixture
def masked():
    """A masked model of 2 layers for 16 positions and 11 colors."""
    return random_weights(TransformerConfig(2, 2, 16, vocab_size=11, n_positions=16, causal=False))


class Watched:
    """A model that notes what it was asked; with `logits` (B, T, V), one that knows its answers."""

    def __init__(self, model, logits=None):
        self.config, self.model, self.logits, self.seen = model.config, model, logits, []

    def __call__(self, tokens, unknown):
        self.seen.append((tokens.clone(), unknown.clone()))
        return self.model(tokens, unknown) if self.logits is None else self.logits


def some_unknown(shares, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(11, (len(shares), 16), generator=generator)
    return tokens, torch.rand(len(shares), 16, generator=generator) < torch.tensor(shares)[:, None]


@pytest.mark.parametrize("passes", [1, 4, 16, 50])
def test_given_tokens_stay_and_the_unknown_follow_the_schedule(masked, passes):
    tokens, unknown = some_unknown([0.0, 0.3, 0.8, 1.0])
    watched = Watched(masked)
    result = decode_parallel(watched, tokens, unknown, sampling=SamplingConfig(passes=passes))
    assert torch.equal(result[~unknown], tokens[~unknown])
    left = unknown.sum(dim=1).tolist()
    for done, (_, now) in enumerate(watched.seen):  # done = 0: nothing is settled yet
        for row, n in enumerate(left):
            expected = n
            for before in range(1, done + 1):
                expected = max(0, min(expected - 1, math.floor(n * math.cos(math.pi / 2 * before / passes))))
            assert now[row].sum() == expected
    assert len(watched.seen) == min(passes, 16)
    settled = [
        (a, b) for a, b in zip(watched.seen, [*watched.seen[1:], (result, torch.zeros_like(unknown))], strict=True)
    ]
    for (_, unknown_before), (tokens_after, unknown_after) in settled:
        assert not (unknown_after & ~unknown_before).any()  # what is settled stays settled,
        assert torch.equal(result[~unknown_after], tokens_after[~unknown_after])  # and as it was


@given(n=st.integers(0, 5000), passes=st.integers(1, 200))
def test_the_last_pass_leaves_nothing_and_no_pass_is_idle(n, passes):
    left = [still_unknown(torch.tensor([n]), done, passes).item() for done in range(passes + 1)]
    assert left[0] == n
    assert left[-1] == 0
    assert all(after < before or before == 0 for before, after in itertools.pairwise(left))


def test_a_certain_model_is_reproduced(masked):
    tokens, unknown = some_unknown([0.5, 1.0, 0.9])
    image = torch.randint(11, (3, 16))
    certain = Watched(masked, logits=100.0 * torch.nn.functional.one_hot(image, 11))
    result = decode_parallel(certain, tokens, unknown, sampling=SamplingConfig(passes=5))
    torch.testing.assert_close(result, torch.where(unknown, image, tokens))


def test_one_pass_samples_every_token_from_its_distribution(masked):
    logits = torch.randn(1, 16, 11, generator=torch.Generator().manual_seed(0)).expand(5000, -1, -1)
    tokens, unknown = torch.zeros(1, 16, dtype=torch.long), torch.ones(1, 16, dtype=torch.bool)
    noise = Noise(0, range(1), range(5000))
    sampled = decode_parallel(Watched(masked, logits), tokens, unknown, noise, SamplingConfig(passes=1))
    frequencies = torch.nn.functional.one_hot(sampled, 11).float().mean(dim=0)
    torch.testing.assert_close(frequencies, logits[0].softmax(-1), atol=0.03, rtol=0)


def test_as_many_passes_as_tokens_settle_the_surest_one_by_one(masked):
    tokens, unknown = some_unknown([0.4, 1.0, 0.9])
    sampling = SamplingConfig(temperature=0, passes=16, choice_temperature=0)
    result = decode_parallel(masked, tokens, unknown, sampling=sampling)
    for row in range(3):
        image, open_positions = tokens[row].clone(), set(unknown[row].nonzero()[:, 0].tolist())
        while open_positions:
            hidden = torch.tensor([position in open_positions for position in range(16)])
            with torch.no_grad():
                p = masked(image[None], hidden[None])[0].softmax(-1)
            surest = max(open_positions, key=lambda position: p[position].max().item())
            image[surest] = p[surest].argmax()
            open_positions.remove(surest)
        torch.testing.assert_close(result[row], image)


def test_images_of_a_batch_do_not_influence_each_other(masked):
    """Copies of images with few and many unknown tokens, at once and each alone."""
    tokens, unknown = some_unknown([0.2, 1.0, 0.6, 0.9])
    sampling = SamplingConfig(passes=6)
    together = decode_parallel(masked, tokens, unknown, Noise(1, range(4), range(2)), sampling)
    for row in range(4):
        for copy in range(2):
            noise = Noise(1, range(row, row + 1), range(copy, copy + 1))
            alone = decode_parallel(masked, tokens[row : row + 1], unknown[row : row + 1], noise, sampling)
            assert torch.equal(alone[0], together[2 * row + copy])


def test_noise_changes_the_order_and_the_seed_fixes_it(masked):
    tokens, unknown = some_unknown([1.0, 1.0])

    def second_pass(seed, choice_temperature):
        watched, noise = Watched(masked), Noise(seed, range(2), range(1))
        sampling = SamplingConfig(temperature=0, passes=4, choice_temperature=choice_temperature)
        decode_parallel(watched, tokens, unknown, noise, sampling)
        return watched.seen[1][1]

    assert torch.equal(second_pass(0, 0.0), second_pass(1, 0.0))
    assert torch.equal(second_pass(0, 50.0), second_pass(0, 50.0))
    assert not torch.equal(second_pass(0, 50.0), second_pass(1, 50.0))


def test_every_pass_has_noise_of_its_own(masked, monkeypatch):
    passes, integers = [], Noise.integers
    monkeypatch.setattr(Noise, "integers", lambda noise, n, done: passes.append(done) or integers(noise, n, done))
    decode_parallel(masked, *some_unknown([1.0]), sampling=SamplingConfig(passes=5))
    assert passes == [1, 2, 3, 4, 5]


def test_an_autoregressive_model_does_not_decode_in_parallel(tiny):
    with pytest.raises(IgptError, match="only one trained with the masked objective"):
        decode_parallel(tiny, *some_unknown([1.0]))
