"""From logits to tokens: against a loop, against the distribution itself, and at its edges."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from igpt.generation.choose import choose_token, filter_logits
from igpt.generation.noise import BITS
from igpt.generation.sampling_config import SamplingConfig

LARGEST = 2**BITS - 1


@given(
    seed=st.integers(0, 1000),
    temperature=st.floats(0.2, 3),
    top_k=st.one_of(st.none(), st.integers(1, 12)),
    top_p=st.floats(0.05, 1),
)
def test_filter_keeps_what_a_loop_keeps(seed, temperature, top_k, top_p):
    logits = torch.randn(3, 10, generator=torch.Generator().manual_seed(seed))
    filtered = filter_logits(logits, SamplingConfig(temperature, top_k, top_p)).softmax(-1).numpy()
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


@pytest.mark.parametrize(
    "sampling",
    [SamplingConfig(), SamplingConfig(0.5), SamplingConfig(2.0, top_k=3), SamplingConfig(top_p=0.8)],
    ids=["plain", "cold", "top_k", "top_p"],
)
def test_each_token_gets_its_probability_of_the_noise(sampling):
    """Of evenly spaced noise, each token gets its probability times n, give or take one at either end."""
    n = 100_003
    logits = 2 * torch.randn(11, generator=torch.Generator().manual_seed(0))
    probabilities = (logits.double() / sampling.temperature).softmax(-1)
    if sampling.top_k or sampling.top_p < 1:
        order = probabilities.argsort(descending=True)
        kept = order[: sampling.top_k or int((probabilities[order].cumsum(0) < sampling.top_p).sum()) + 1]
        assert 1 < len(kept) < 11
        only_kept = torch.zeros(11, dtype=torch.float64)
        only_kept[kept] = probabilities[kept] / probabilities[kept].sum()
        probabilities = only_kept
    noise = (torch.arange(n) * 2**BITS) // n
    chosen = choose_token(logits.expand(n, -1), noise, sampling)
    counts = torch.bincount(chosen, minlength=11)
    assert (counts - n * probabilities).abs().max() < 2  # a random sample would be off by about 150
    assert (counts[probabilities == 0] == 0).all()


@pytest.mark.parametrize("excluded", [[0], [10], [0, 1, 9, 10], list(range(10)), list(range(1, 11))])
@pytest.mark.parametrize("noise", [0, 1, LARGEST - 1, LARGEST])
def test_excluded_tokens_are_not_chosen_at_either_end(excluded, noise):
    logits = torch.randn(500, 11, generator=torch.Generator().manual_seed(0))
    logits[:, excluded] = -torch.inf
    chosen = choose_token(logits, torch.full((500,), noise), SamplingConfig())
    kept = sorted(set(range(11)) - set(excluded))
    assert (chosen == kept[0 if noise < 2 else -1]).all()


def test_of_many_tokens_the_last_one_is_reached():
    """Whatever is lost in rounding 50,000 probabilities, the largest noise gives the last token."""
    logits = torch.zeros(1, 50_000)
    assert choose_token(logits, torch.tensor([LARGEST]), SamplingConfig()) == 49_999
    assert choose_token(logits, torch.tensor([0]), SamplingConfig()) == 0


def test_at_temperature_0_the_most_likely_token_whatever_the_rest():
    logits = torch.randn(50, 9)
    noise = torch.randint(2**BITS, (50,))
    assert torch.equal(choose_token(logits, noise, SamplingConfig(0, top_k=3, top_p=0.1)), logits.argmax(-1))


def test_logits_that_are_no_numbers_still_give_a_token():
    """A diverged model must end in the sentence about its loss, not in an index out of range."""
    for value in (torch.nan, torch.inf):
        chosen = choose_token(torch.full((4, 11), value), torch.tensor([0, 1, LARGEST - 1, LARGEST]), SamplingConfig())
        assert ((chosen >= 0) & (chosen < 11)).all()
