import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conftest import random_weights
from igpt.errors import IgptError
from igpt.model.config import TransformerConfig
from igpt.sampling import filter_logits, generate


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
    with pytest.raises(IgptError, match="only an autoregressive model draws"):
        generate(model, torch.empty(1, 0, dtype=torch.long))
