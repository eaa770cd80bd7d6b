"""Every choice that the paper's network does not have, in every way in which a model is used."""

from dataclasses import asdict, replace

import pytest
import torch
from torch.nn import functional as F

from conftest import random_weights
from igpt.generation import c_decoder
from igpt.generation.autoregressive import generate
from igpt.generation.sampling_config import SamplingConfig
from igpt.model.cache import FixedCache
from igpt.model.config import TransformerConfig
from igpt.model.rotary import cell_coordinates
from igpt.model.transformer import Transformer
from igpt.tokenizers import Gray, with_order

PAPER = TransformerConfig(n_layer=3, n_head=2, n_embd=16, vocab_size=11, n_positions=16)
CHOICES = {
    "no positions": {"positions": "none"},
    "rotary 1d": {"rotary": "1d"},
    "rotary 2d": {"rotary": "2d"},
    "rotary 2d only": {"rotary": "2d", "positions": "none"},
}
SPIRAL = cell_coordinates(with_order(Gray(), "spiral").grid(16))


@pytest.fixture(params=CHOICES)
def model(request):
    return random_weights(replace(PAPER, **CHOICES[request.param]), coordinates=SPIRAL)


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def random_tokens(batch_size=3):
    return torch.randint(11, (batch_size, 16), generator=torch.Generator().manual_seed(1))


def test_it_is_not_the_papers_network(model):
    paper = random_weights(PAPER)
    shared = {name: weight for name, weight in model.state_dict().items() if name in paper.state_dict()}
    paper.load_state_dict({**paper.state_dict(), **shared})
    assert not torch.allclose(model(random_tokens()), paper(random_tokens()), atol=1e-2)


def test_a_causal_model_does_not_see_what_it_predicts(model):
    tokens = random_tokens(1)
    logits = model(tokens)
    for position in range(16):
        changed = tokens.clone()
        changed[:, position:] = (changed[:, position:] + 1) % 11
        close(model(changed)[:, : position + 1], logits[:, : position + 1])


@pytest.mark.parametrize("lengths", [(0, *15 * [1]), (1, 1, 5, 1), (7, 8), (15,)])
@torch.no_grad()
def test_logits_with_a_cache_are_those_of_the_whole_sequence(model, lengths):
    tokens, seen, cache = random_tokens(), 0, model.new_cache(3)
    expected = model(tokens)
    for length in lengths:
        logits = model.next_logits(tokens[:, seen : seen + length], cache)
        seen += length
        close(logits, expected[:, seen])


@torch.no_grad()
def test_steps_of_fixed_shapes_give_the_same_logits(model):
    tokens, cache = random_tokens(), model.new_cache(3)
    expected = model(tokens)
    model.next_logits(tokens[:, :5], cache)
    fixed = FixedCache(cache.storage, torch.tensor([5]))
    fixed.length.fill_(cache.length)
    for position in range(6, 16):
        close(model.next_logits(tokens[:, position - 1 : position], fixed), expected[:, position])
        fixed.length += 1


@torch.no_grad()
def test_samples_are_what_it_predicts_and_not_from_the_decoder_of_the_papers_network(model):
    assert not c_decoder.supports(model, model.new_cache(1))
    prompt = random_tokens()[:, :4]
    tokens = F.pad(prompt, (0, 12))
    for position in range(4, 16):
        tokens[:, position] = model(tokens)[:, position].argmax(dim=-1)
    assert torch.equal(generate(model, prompt, sampling=SamplingConfig(temperature=0)), tokens)


@pytest.mark.parametrize("choice", CHOICES)
def test_a_masked_model_sees_everything_but_the_masked_tokens(choice):
    model = random_weights(replace(PAPER, **CHOICES[choice], causal=False), coordinates=SPIRAL)
    tokens, mask = random_tokens(1), torch.zeros(1, 16, dtype=torch.bool)
    mask[:, 5] = True
    changed = tokens.clone()
    changed[:, 5] = (changed[:, 5] + 1) % 11
    close(model(changed, mask), model(tokens, mask))
    assert not torch.allclose(model(changed)[:, 0], model(tokens)[:, 0])
    assert not torch.allclose(model(tokens, mask)[:, 5], model(tokens)[:, 5])


@torch.no_grad()
def test_features_are_the_mean_inputs_of_attention(model):
    inputs = []
    for block in model.blocks:
        block.attn.register_forward_pre_hook(lambda attention, arguments: inputs.append(arguments[0].mean(dim=1)))
    features = model.features(random_tokens())
    close(features[:, :-1], torch.stack(inputs, dim=1))
    close(features[:, -1], model.hidden(random_tokens()).mean(dim=1))


def gradients(model):
    model.zero_grad()
    logits = model(random_tokens())
    F.cross_entropy(logits.flatten(0, 1), random_tokens().flatten()).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def test_every_weight_is_trained(model):
    assert [name for name, gradient in gradients(model).items() if gradient is None or not gradient.any()] == []


@pytest.mark.parametrize("compiled", [False, True])
def test_recomputed_and_compiled_blocks_have_the_same_gradients(model, compiled):
    expected = gradients(model)
    model.checkpointing = True
    if compiled:
        torch._dynamo.reset()
        model.compile(backend="aot_eager", fullgraph=True)
    for name, gradient in gradients(model.train()).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6, msg=name)


def test_a_state_dict_and_its_config_are_the_model(model):
    restored = Transformer(TransformerConfig(**asdict(model.config))).eval()
    restored.load_state_dict(model.state_dict())
    assert torch.equal(restored(random_tokens()), model(random_tokens()))
