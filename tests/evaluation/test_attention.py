"""The attention of pixels, against softmaxes over single dot products of what the model really multiplies."""

import dataclasses
import math

import pytest
import torch
from torch.nn import functional as F

from conftest import random_weights
from igpt.errors import IgptError
from igpt.evaluation.attention import attention_to_tokens, require_queries_and_keys
from igpt.model.config import TransformerConfig
from igpt.model.transformer import Attention

PAPER = TransformerConfig(3, 2, 16, vocab_size=11, n_positions=16)
CONFIGS = {
    "paper": PAPER,
    "masked": dataclasses.replace(PAPER, causal=False),
    "rotary": dataclasses.replace(PAPER, rotary="2d", positions="none"),
    "variants": dataclasses.replace(
        PAPER, rotary="1d", qk_norm=True, value_residual=True, value_embedding=(1,), input_shortcut=True,
        embedding_norm=True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_attention_is_the_softmax_of_what_the_model_attends_with(config, monkeypatch):
    model, queries = random_weights(config), torch.tensor([0, 6, 15])
    tokens = torch.randint(11, (2, 16))
    found = attention_to_tokens(model, tokens, queries)
    used = []

    def recorded(q, k, v, *arguments, **options):
        used.append((q, k))
        return attend(q, k, v, *arguments, **options)

    attend = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", recorded)
    mask = None if config.causal else torch.zeros(2, 16, dtype=torch.bool).index_fill(1, queries, True)
    with torch.no_grad():
        model(tokens, mask)
    assert found.shape == (len(used), 2, 3, 16) == (3, 2, 3, 16)
    for (q, k), layer in zip(used, found, strict=True):
        for image in range(2):
            for number, t in enumerate(queries.tolist()):
                last = t if config.causal else 15
                expected = torch.zeros(16)
                for head in range(2):
                    scores = [math.exp(float(q[image, head, t] @ k[image, head, s]) / 8**0.5) for s in range(last + 1)]
                    shares = [score / sum(scores) for score in scores]
                    shares = shares[1:] if config.causal else shares  # without the start
                    expected[: len(shares)] += torch.tensor(shares) / 2
                torch.testing.assert_close(layer[image, number], expected, atol=1e-5, rtol=1e-4)


def test_attention_of_another_kind_is_refused():
    class Other(torch.nn.Module):
        pass

    model = random_weights(PAPER)
    require_queries_and_keys(model)
    assert isinstance(model.blocks[1].attn, Attention)
    model.blocks[1].attn = Other()
    with pytest.raises(IgptError, match="Other does not have"):
        require_queries_and_keys(model)
