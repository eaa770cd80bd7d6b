import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conftest import random_weights
from igpt.errors import IgptError
from igpt.generation.parallel_decoding import decode_parallel, still_unknown
from igpt.model.config import TransformerConfig
from igpt.objectives.masking import Masking
from igpt.objectives.tasks import Masked
from igpt.pretrained import Pretrained
from igpt.tokenizers import Palette


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
    result = decode_parallel(watched, tokens, unknown, torch.Generator().manual_seed(1), passes=passes)
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
    picture = torch.randint(11, (3, 16))
    certain = Watched(masked, logits=100.0 * torch.nn.functional.one_hot(picture, 11))
    result = decode_parallel(certain, tokens, unknown, torch.Generator().manual_seed(0), passes=5)
    torch.testing.assert_close(result, torch.where(unknown, picture, tokens))


def test_one_pass_draws_every_token_from_its_distribution(masked):
    logits = torch.randn(1, 16, 11).expand(5000, -1, -1)
    tokens, unknown = torch.zeros(5000, 16, dtype=torch.long), torch.ones(5000, 16, dtype=torch.bool)
    drawn = decode_parallel(Watched(masked, logits), tokens, unknown, torch.Generator().manual_seed(0), passes=1)
    frequencies = torch.nn.functional.one_hot(drawn, 11).float().mean(dim=0)
    torch.testing.assert_close(frequencies, logits[0].softmax(-1), atol=0.03, rtol=0)


def test_as_many_passes_as_tokens_settle_the_surest_one_by_one(masked):
    tokens, unknown = some_unknown([0.4, 1.0, 0.9])
    result = decode_parallel(masked, tokens, unknown, passes=16, temperature=0, choice_temperature=0)
    for row in range(3):
        picture, open_positions = tokens[row].clone(), set(unknown[row].nonzero()[:, 0].tolist())
        while open_positions:
            hidden = torch.tensor([position in open_positions for position in range(16)])
            with torch.no_grad():
                p = masked(picture[None], hidden[None])[0].softmax(-1)
            surest = max(open_positions, key=lambda position: p[position].max().item())
            picture[surest] = p[surest].argmax()
            open_positions.remove(surest)
        torch.testing.assert_close(result[row], picture)


def test_images_of_a_batch_do_not_touch_each_other(masked):
    tokens, unknown = some_unknown([0.2, 1.0, 0.6, 0.9])

    def decode(rows):
        return decode_parallel(masked, tokens[rows], unknown[rows], passes=6, temperature=0, choice_temperature=0)

    together = decode([0, 1, 2, 3])
    torch.testing.assert_close(decode([2, 0, 3, 1]), together[[2, 0, 3, 1]])
    torch.testing.assert_close(decode([2]), together[[2]])


def test_noise_changes_the_order_and_the_seed_fixes_it(masked):
    tokens, unknown = some_unknown([1.0, 1.0])

    def second_pass(seed, choice_temperature):
        watched, generator = Watched(masked), torch.Generator().manual_seed(seed)
        decode_parallel(watched, tokens, unknown, generator, 4, temperature=0, choice_temperature=choice_temperature)
        return watched.seen[1][1]

    assert torch.equal(second_pass(0, 0.0), second_pass(1, 0.0))
    assert torch.equal(second_pass(0, 50.0), second_pass(0, 50.0))
    assert not torch.equal(second_pass(0, 50.0), second_pass(1, 50.0))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"passes": 0}, "at least 1 pass"),
        ({"choice_temperature": -1.0}, "at least 0"),
        ({"top_k": 0}, "top_k at least"),
    ],
)
def test_impossible_settings_are_refused(masked, bad, message):
    with pytest.raises(IgptError, match=message):
        decode_parallel(masked, *some_unknown([1.0]), **bad)


def test_a_masked_run_draws_and_keeps_what_is_given(masked):
    palette = Palette(torch.rand(11, 3, generator=torch.Generator().manual_seed(0)).numpy() * 255)
    pretrained = Pretrained(masked, palette, Masked(Masking(0.1, max_ratio=1.0)), batch_size=4)
    samples = pretrained.sample(5, seed=1, passes=3)
    assert samples.shape == (5, 4, 4, 3)
    np.testing.assert_array_equal(samples, pretrained.sample(5, seed=1, passes=3))
    images = palette.decode(torch.randint(11, (3, 16))).numpy()
    completions = pretrained.complete(images, n=2, given=0.5, passes=3)
    assert completions.shape == (3, 2, 4, 4, 3)
    np.testing.assert_array_equal(completions[:, :, :2], images[:, None, :2].repeat(2, axis=1))
    assert not np.array_equal(completions[:, 0], completions[:, 1])


def test_an_autoregressive_model_does_not_decode_in_parallel(tiny):
    with pytest.raises(IgptError, match="only one trained with the masked objective"):
        decode_parallel(tiny, *some_unknown([1.0]))
