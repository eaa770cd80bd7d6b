import math

import pytest
import torch
from torch.nn import functional as F
from transformers import ImageGPTConfig, ImageGPTForCausalImageModeling

from conftest import random_weights
from igpt.errors import IgptError
from igpt.model.config import PRESETS, TransformerConfig
from igpt.model.transformer import Transformer


@pytest.mark.parametrize(
    ("name", "millions"),
    # Counted by hand from section 3.2: 12 L d^2 for the blocks, 2 L d + d gains, (2 * 512 + 1024 + 1) d embeddings.
    [("s", 76.57), ("m", 455.16), ("l", 1362.25), ("xl", 6801.0)],
)
def test_parameter_counts_are_the_papers(name, millions):
    with torch.device("meta"):
        model = Transformer(TransformerConfig(**PRESETS[name]))
    count = sum(p.numel() for p in model.parameters())
    # XL was trained at 64x64: four times as many positions, of which the published count is rounded.
    assert count / 1e6 == pytest.approx(millions, rel=2e-4 if name != "xl" else 2e-3)


def test_loss_at_initialization_is_ln_of_the_vocabulary():
    model = Transformer(TransformerConfig(n_layer=2, n_head=2, n_embd=32, vocab_size=128, n_positions=64))
    tokens = torch.randint(128, (3, 64))
    loss = F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())
    assert loss.item() == pytest.approx(math.log(128), abs=1e-6)


def test_initialization_has_the_released_deviations():
    torch.manual_seed(0)
    model = Transformer(TransformerConfig(n_layer=4, n_head=4, n_embd=256, vocab_size=512, n_positions=1024))
    block = model.blocks[2]
    expected = {
        block.attn.qkv.weight: 1 / 16,
        block.attn.out.weight: 1 / math.sqrt(256 * 4),
        block.mlp.fc.weight: 0.02,
        block.mlp.out.weight: 0.02,
        model.token_embedding.weight: 0.02,
        model.position_embedding.weight: 0.01,
    }
    for weight, std in expected.items():
        assert weight.std().item() == pytest.approx(std, rel=0.02)
    assert not model.head.weight.any()


def test_causal_model_does_not_see_what_it_predicts(tiny):
    tokens = torch.randint(11, (1, 16))
    logits = tiny(tokens)
    for position in range(16):
        changed = tokens.clone()
        changed[:, position:] = (changed[:, position:] + 1) % 11
        torch.testing.assert_close(tiny(changed)[:, : position + 1], logits[:, : position + 1])
    changed = tokens.clone()
    changed[:, 0] = (changed[:, 0] + 1) % 11
    assert not torch.allclose(tiny(changed)[:, 1:], logits[:, 1:])


def test_masked_model_sees_everything_but_the_masked_tokens():
    model = random_weights(TransformerConfig(2, 2, 16, vocab_size=11, n_positions=16, causal=False))
    tokens, mask = torch.randint(11, (1, 16)), torch.zeros(1, 16, dtype=torch.bool)
    mask[:, 5] = True
    changed = tokens.clone()
    changed[:, 5] = (changed[:, 5] + 1) % 11
    torch.testing.assert_close(model(changed, mask), model(tokens, mask))
    assert not torch.allclose(model(changed)[:, 0], model(tokens)[:, 0])  # unmasked, even the first position sees it


@pytest.fixture(scope="module")
def pair():
    """Our model and Hugging Face's ImageGPT with the same random weights; its biases, which the release lacks, at 0."""
    config = TransformerConfig(n_layer=3, n_head=4, n_embd=32, vocab_size=16, n_positions=64)
    ours = random_weights(config)
    theirs = ImageGPTForCausalImageModeling(
        ImageGPTConfig(vocab_size=17, n_positions=64, n_embd=32, n_layer=3, n_head=4, activation_function="quick_gelu")
    ).eval()
    weights = {name: torch.zeros_like(p) for name, p in theirs.state_dict().items()}
    weights["transformer.wte.weight"] = torch.cat([ours.token_embedding.weight, ours.start_embedding[None]])
    weights["transformer.wpe.weight"] = ours.position_embedding.weight
    weights["transformer.ln_f.weight"] = ours.norm.gain
    weights["lm_head.weight"] = ours.head.weight
    for i, block in enumerate(ours.blocks):
        for name, weight in {
            "ln_1.weight": block.attn_norm.gain,
            "ln_2.weight": block.mlp_norm.gain,
            "attn.c_attn.weight": block.attn.qkv.weight.T,
            "attn.c_proj.weight": block.attn.out.weight.T,
            "mlp.c_fc.weight": block.mlp.fc.weight.T,
            "mlp.c_proj.weight": block.mlp.out.weight.T,
        }.items():
            weights[f"transformer.h.{i}.{name}"] = weight
    theirs.load_state_dict(weights)
    return ours, theirs


def with_start(tokens):
    return torch.cat([torch.full((len(tokens), 1), 16), tokens[:, :-1]], dim=1)


def test_logits_equal_hugging_face(pair):
    ours, theirs = pair
    tokens = torch.randint(16, (2, 64))
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens), theirs(with_start(tokens)).logits, rtol=1e-4, atol=1e-4)


def test_features_equal_hugging_face_hidden_states_after_the_norm(pair):
    ours, theirs = pair
    tokens = torch.randint(16, (2, 64))
    with torch.no_grad():
        hidden = theirs(with_start(tokens), output_hidden_states=True).hidden_states
        expected = [block.ln_1(h).mean(1) for block, h in zip(theirs.transformer.h, hidden, strict=False)]
        features = ours.features(tokens)
    torch.testing.assert_close(features[:, :3], torch.stack(expected, 1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(features[:, 3], hidden[-1].mean(1), rtol=1e-4, atol=1e-4)  # theirs is normed already


@pytest.mark.parametrize(("change", "message"), [({"n_head": 3}, "multiple"), ({"n_layer": 0}, "at least 1")])
def test_impossible_shapes_are_refused(change, message):
    with pytest.raises(IgptError, match=message):
        TransformerConfig(**{"n_layer": 1, "n_head": 2, "n_embd": 16, **change})
