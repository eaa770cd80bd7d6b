"""Every choice that the paper's network does not have, in every way in which a model is used."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
import yaml
from torch.nn import functional as F

from conftest import random_weights
from igpt.errors import IgptError
from igpt.generation import c_decoder
from igpt.generation.autoregressive import generate
from igpt.generation.sampling_config import SamplingConfig
from igpt.model.cache import FixedCache
from igpt.model.config import TransformerConfig
from igpt.model.rotary import cell_coordinates
from igpt.model.transformer import QuickGELU, Transformer
from igpt.tokenizers import Gray, with_order
from igpt.training.optimizers import OptimConfig

PAPER = TransformerConfig(n_layer=3, n_head=2, n_embd=16, vocab_size=11, n_positions=16)
MODERN = yaml.safe_load((Path(__file__).parents[2] / "conf" / "model" / "parts" / "modern.yaml").read_text())
del MODERN["defaults"]
CHOICES = {
    "no positions": {"positions": "none"},
    "rotary 1d": {"rotary": "1d"},
    "rotary 2d": {"rotary": "2d"},
    "rotary 2d only": {"rotary": "2d", "positions": "none"},
    "gelu": {"mlp": "gelu"},
    "relu2": {"mlp": "relu2"},
    "swiglu": {"mlp": "swiglu"},
    "qk norm": {"qk_norm": True},
    "value residual": {"value_residual": True},
    "value embedding": {"value_embedding": [0, -1]},
    "input shortcut": {"input_shortcut": True},
    "embedding norm": {"embedding_norm": True},
    "logit softcap": {"logit_softcap": 2.0},
    "modern": {**MODERN, "logit_softcap": 2.0},
    "all": {**MODERN, "mlp": "swiglu", "value_embedding": [1, 2], "logit_softcap": 2.0, "positions": "none"},
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
    own = paper.state_dict()
    common = {name: w for name, w in model.state_dict().items() if name in own and own[name].shape == w.shape}
    paper.load_state_dict({**own, **common})
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
@pytest.mark.parametrize("native", [True, False])
def test_samples_are_what_it_predicts(model, native, monkeypatch):
    if native and c_decoder.library() is None:
        pytest.skip("this machine has no C compiler")
    if native:
        assert c_decoder.supports(model, model.new_cache(1))
        assert c_decoder.agrees(model)
    else:
        monkeypatch.setattr("igpt.generation.steps.supports", lambda model, cache: False)
    prompt = random_tokens()[:, :4]
    tokens = F.pad(prompt, (0, 12))
    for position in range(4, 16):
        tokens[:, position] = model(tokens)[:, position].argmax(dim=-1)
    assert torch.equal(generate(model, prompt, sampling=SamplingConfig(temperature=0)), tokens)


def test_a_masked_model_without_any_positions_is_refused():
    with pytest.raises(IgptError, match="set model.positions=learned, or model.rotary"):
        replace(PAPER, positions="none", causal=False)


@pytest.mark.parametrize("choice", [name for name in CHOICES if name != "no positions"])
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


def test_weights_in_half_precision_are_trained(model):
    assert [name for name, gradient in gradients(model.bfloat16()).items() if not gradient.any()] == []


def test_values_stay_in_the_precision_of_products_when_they_are_mixed():
    model, seen = random_weights(replace(PAPER, value_residual=True, value_embedding=[0, -1])), []
    for block in model.blocks:
        block.value_mix.register_forward_hook(lambda mix, arguments, output: seen.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        model(random_tokens())
    assert seen == [torch.bfloat16] * 3


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


def test_zero_initialized_blocks_add_nothing():
    model = Transformer(replace(PAPER, zero_init=True))
    first, *others = model.residuals(model.embed(random_tokens()))
    assert all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize("mlp", ["gelu", "swiglu", "relu2"])
def test_mlps_are_their_formulas(mlp):
    block = random_weights(replace(PAPER, mlp=mlp)).blocks[0].mlp
    x = torch.randn(2, 5, 16).double()
    fc, out = block.fc.weight.double(), block.out.weight.double()
    if mlp == "gelu":
        hidden = x @ fc.T
        hidden = hidden * (1 + torch.erf(hidden / 2**0.5)) / 2
    elif mlp == "relu2":
        hidden = (x @ fc.T).clamp(min=0) ** 2
    else:
        gate = x @ block.gate.weight.double().T
        hidden = gate / (1 + torch.exp(-gate)) * (x @ fc.T)
    torch.testing.assert_close(block(x.float()).double(), hidden @ out.T, rtol=1e-5, atol=1e-5)


def test_swiglu_costs_what_the_others_cost():
    """8 C^2 weights, up to the rounding of its hidden width."""
    for width in (128, 512, 1536):
        shape = replace(PAPER, n_head=4, n_embd=width)
        wide, gated = (
            sum(p.numel() for p in Transformer(replace(shape, mlp=mlp)).blocks[0].mlp.parameters())
            for mlp in ("relu2", "swiglu")
        )
        assert wide == 8 * width**2
        assert gated == pytest.approx(wide, rel=0.01)


@torch.no_grad()
def test_every_value_is_mixed_from_the_first_block_and_the_tokens():
    """Blocks 1 and 2 with their own values switched off attend to nothing but the first block's, or the tokens'."""
    model = random_weights(replace(PAPER, value_residual=True, value_embedding=[2]))
    seen = []
    for block in model.blocks:
        block.value_mix.register_forward_hook(lambda mix, arguments, output: seen.append((arguments[0], output)))
    tokens = random_tokens()
    model(tokens)
    (first, unmixed), (second, mixed), (third, all_three) = seen
    assert torch.equal(first, unmixed)
    a, b = model.blocks[1].value_mix.mixed.weights
    close(mixed, a * second + b * first)
    a, b, c = model.blocks[2].value_mix.mixed.weights
    table = model.value_embedding.weight  # the last row is for the start
    embedded = torch.cat([table[-1:].expand(3, 1, 16), table[tokens[:, :-1]]], dim=1)  # (B, T, C)
    close(all_three, a * third + b * first + c * embedded.view(3, 16, 2, 8).transpose(1, 2))


@torch.no_grad()
def test_logits_stay_within_the_cap_in_any_precision():
    model = random_weights(replace(PAPER, logit_softcap=2.0), std=3)
    plain = F.linear(model.hidden(random_tokens()), model.head.weight)
    close(model(random_tokens()), 2 * torch.tanh(plain / 2))
    assert plain.abs().max() > 100
    with torch.autocast("cpu", torch.bfloat16):
        assert model(random_tokens()).dtype == torch.float32


def test_scalars_and_embeddings_are_adams_and_matrices_muons(model):
    others, *of_muon = (group["params"] for group in OptimConfig(1.0, 1, "muon").optimizer(model).param_groups)
    matrices = [p for group in of_muon for p in group]
    names = {parameter: name for name, parameter in model.named_parameters()}
    assert len(others) + len(matrices) == len(names)
    assert {names[p].split(".", 2)[2] for p in matrices} <= {
        "attn.qkv.weight", "attn.out.weight", "mlp.fc.weight", "mlp.gate.weight", "mlp.out.weight"
    }  # fmt: skip
    assert {names[p].split(".")[0] for p in others if p.ndim == 2} <= {
        "token_embedding", "position_embedding", "value_embedding", "head"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value_embedding": [3]}, "there are blocks 0 to 2"),
        ({"value_embedding": [-4]}, "there are blocks 0 to 2"),
        ({"logit_softcap": 0.0}, "above 0 or null"),
        ({"dropout": 1.0}, "below 1"),
        ({"mlp": "tanh"}, "quick_gelu, gelu, relu2, swiglu or the path"),
    ],
)
def test_impossible_choices_are_refused(change, message):
    with pytest.raises(IgptError, match=message):
        replace(PAPER, **change)


@pytest.mark.parametrize("choice", [{"dropout": 0.5}, {"attention_dropout": 0.5}])
def test_dropout_is_for_training_alone(choice):
    paper, model = random_weights(PAPER), random_weights(replace(PAPER, **choice))
    tokens = random_tokens()
    assert torch.equal(model(tokens), paper(tokens))
    model.train()
    assert not torch.allclose(model(tokens), model(tokens))


class DropMLP(QuickGELU):
    """An MLP of the user's, with dropout of its own."""

    def forward(self, x):
        return torch.nn.functional.dropout(super().forward(x), 0.3, self.training)


@pytest.mark.parametrize("choice", [{"dropout": 0.3, "attention_dropout": 0.3}, {"mlp": f"{__name__}.DropMLP"}])
def test_recomputed_blocks_drop_the_same(choice):
    model = random_weights(replace(PAPER, **choice)).train()
    found = []
    for model.checkpointing in (False, True):
        torch.manual_seed(0)
        found.append(gradients(model))
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient)


def test_half_of_what_attention_adds_is_dropped_and_the_rest_doubled():
    """The MLP adds nothing here, so that the residual stream changes by zero or by twice as much."""
    model = random_weights(replace(PAPER, n_layer=1, dropout=0.5))
    torch.nn.init.zeros_(model.blocks[0].mlp.out.weight)
    before, after = model.residuals(model.embed(random_tokens()))
    _, trained = model.train().residuals(model.embed(random_tokens()))
    dropped, doubled = ((trained - before - share * (after - before)).abs() < 1e-4 for share in (0, 2))
    assert (dropped | doubled).all()
    assert 0.4 < dropped.float().mean() < 0.6
