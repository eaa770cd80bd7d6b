import math

import pytest
import torch
from torch import nn

from conftest import random_weights
from igpt.errors import IgptError
from igpt.model.config import TransformerConfig
from igpt.model.transformer import Transformer
from igpt.training.muon import MuonAdam, orthogonalize
from igpt.training.optimizers import OptimConfig, is_stacked
from igpt.training.weight_decay import DecayedAdam, WeightDecay


def test_schedule_is_linear_then_half_a_cosine():
    config = OptimConfig(lr=1.0, total_steps=110, warmup_steps=10)
    assert [config.lr_factor(s) for s in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
    assert config.lr_factor(10) == 1
    assert config.lr_factor(60) == pytest.approx(0.5)
    assert config.lr_factor(85) == pytest.approx(0.5 * (1 + math.cos(0.75 * math.pi)))
    assert config.lr_factor(110) == config.lr_factor(200) == pytest.approx(0)
    assert OptimConfig(lr=1.0, total_steps=110, warmup_steps=10, schedule="constant").lr_factor(109) == 1


def test_linear_schedule_is_a_line_to_zero():
    config = OptimConfig(lr=1.0, total_steps=110, warmup_steps=10, schedule="linear")
    assert [config.lr_factor(s) for s in (9, 10, 35, 60, 110, 200)] == pytest.approx([1, 1, 0.75, 0.5, 0, 0])


def test_wsd_schedule_is_constant_until_it_decays_as_one_minus_a_square_root():
    config = OptimConfig(lr=1.0, total_steps=100, warmup_steps=10, schedule="wsd", decay_share=0.36)
    assert [config.lr_factor(s) for s in (4, 9, 10, 50, 64)] == pytest.approx([0.5, 1, 1, 1, 1])
    assert [config.lr_factor(s) for s in (65, 68, 80, 100, 120)] == pytest.approx(
        [1 - 1 / 6, 1 - 1 / 3, 1 - 2 / 3, 0, 0]
    )
    whole = OptimConfig(lr=1.0, total_steps=100, warmup_steps=10, schedule="wsd", decay_share=1.0)
    assert [whole.lr_factor(s) for s in (9, 10, 100)] == pytest.approx([1, 1, 0])  # it begins after the warm-up


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 64, 16), (2, 16, 64)])
def test_orthogonalized_matrices_keep_singular_vectors_and_even_out_the_values(shape, bfloat16):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    result = orthogonalize(matrices, bfloat16=bfloat16)
    assert result.dtype == (torch.bfloat16 if bfloat16 else torch.float32)
    result = result.float()
    values = torch.linalg.svdvals(result)
    assert values.min() > 0.5
    assert values.max() < 1.3
    u, _, vt = torch.linalg.svd(matrices, full_matrices=False)
    rotated = u.mT @ result @ vt.mT
    tolerance = 0.05 if bfloat16 else 1e-4
    torch.testing.assert_close(rotated, torch.diag_embed(rotated.diagonal(dim1=-2, dim2=-1)), atol=tolerance, rtol=0)


def model_and_optimizer(name, **settings):
    model = random_weights(TransformerConfig(2, 2, 16, vocab_size=11, n_positions=16))
    return model, OptimConfig(lr=0.01, total_steps=10, name=name, **settings).optimizer(model)


def train(model, optimizer, steps=3):
    for seed in range(steps):
        tokens = torch.randint(11, (4, 16), generator=torch.Generator().manual_seed(seed))
        loss = torch.nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def test_muon_moves_matrices_by_orthogonal_steps_and_the_rest_as_adam_does():
    (model, optimizer), (other, adam) = model_and_optimizer("muon"), model_and_optimizer("adam")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    train(model, optimizer, steps=1)
    train(other, adam, steps=1)
    after, by_adam = dict(model.named_parameters()), dict(other.named_parameters())
    for name in ("head.weight", "norm.gain", "token_embedding.weight", "start_embedding", "blocks.0.mlp_norm.gain"):
        torch.testing.assert_close(after[name], by_adam[name])
    for name, scale in (("attn.qkv", 1), ("attn.out", 1), ("mlp.fc", 2), ("mlp.out", 1)):
        moved = (before[f"blocks.1.{name}.weight"] - after[f"blocks.1.{name}.weight"]).detach()
        values = torch.linalg.svdvals(moved[:16]) / (0.02 * scale)
        assert values.max() < 1.35


def matrices_with_gradients(*shapes, steps):
    """Random matrices, and a list of random gradients for each step."""
    generator = torch.Generator().manual_seed(0)
    matrices = [torch.randn(shape, generator=generator) for shape in shapes]
    return matrices, [[torch.randn(shape, generator=generator) for shape in shapes] for _ in range(steps)]


def after_steps(optimizer_for, matrices, gradients):
    """The matrices after a step of an optimizer for each list of gradients."""
    parameters = [nn.Parameter(matrix.clone()) for matrix in matrices]
    optimizer = optimizer_for(parameters)
    for step in gradients:
        for p, gradient in zip(parameters, step, strict=True):
            p.grad = gradient.clone()
        optimizer.step()
    return [p.detach() for p in parameters]


def all_matrices(parameters, each=1):
    return [{"params": parameters, "matrices": each}]


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_muon_is_that_of_torch(decay, monkeypatch):
    """Which computes in bfloat16, here in float32, and does not divide stacked matrices."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.float)
    matrices, gradients = matrices_with_gradients((16, 16), (8, 32), (64, 16), (16, 16), steps=5)
    settings = {"lr": 0.03, "momentum": 0.9}
    theirs = after_steps(lambda ps: torch.optim.Muon(ps, weight_decay=decay, **settings), matrices, gradients)

    def muon(parameters):
        return MuonAdam(all_matrices(parameters), betas=(0.9, 0.95), decay=WeightDecay(decay), **settings)

    ours = after_steps(muon, matrices, gradients)
    assert min((a - b).abs().max() for a, b in zip(ours, matrices, strict=True)) > 0.01
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_stacked_matrices_move_as_three():
    matrices, gradients = matrices_with_gradients((48, 16), steps=3)

    def muon(each):
        return lambda parameters: MuonAdam(all_matrices(parameters, each), lr=0.1, betas=(0.9, 0.95))

    (stacked,) = after_steps(muon(3), matrices, gradients)
    three = after_steps(muon(1), matrices[0].split(16), [step[0].split(16) for step in gradients])
    torch.testing.assert_close(stacked, torch.cat(three))


def test_only_queries_keys_and_values_are_stacked():
    """Not a matrix that happens to have three times as many rows as columns."""
    model = Transformer(TransformerConfig(1, 1, 8, vocab_size=11, n_positions=16, mlp="swiglu"))
    names = {id(p): name for name, p in model.named_parameters()}
    groups = OptimConfig(lr=0.1, total_steps=1, name="muon").optimizer(model).param_groups
    found = {names[id(p)]: group["matrices"] for group in groups for p in group["params"] if group["matrices"]}
    assert [name for name, n in found.items() if n == 3] == ["blocks.0.attn.qkv.weight"]
    assert not is_stacked("blocks.0.attn.qkv.weight", torch.zeros(16, 8))  # of an attention of the user's
    assert {name for name, n in found.items() if n == 1} >= {"blocks.0.attn.out.weight", "blocks.0.mlp.out.weight"}


@pytest.mark.parametrize(
    ("warmup", "schedule", "warns"), [(9, "linear", False), (10, "linear", True), (10, "constant", False)]
)
def test_a_warm_up_as_long_as_the_schedule_gives_a_warning(warmup, schedule, warns, caplog):
    OptimConfig(lr=0.1, total_steps=10, warmup_steps=warmup, schedule=schedule).configure(nn.Linear(2, 2))
    assert ("so the learning rate does not decay" in caplog.text) == warns


def test_momentum_rises_linearly_in_its_warm_up():
    def moved(**settings):
        matrices, gradients = matrices_with_gradients((16, 16), steps=6)
        return after_steps(lambda ps: MuonAdam(all_matrices(ps), 0.1, (0.9, 0.95), **settings), matrices, gradients)

    optimizer = MuonAdam(all_matrices([nn.Parameter(torch.zeros(2, 2))]), 0.1, (0.9, 0.95), 0.95, warmup_steps=4)
    assert [optimizer.momentum_at(s) for s in (0, 1, 2, 4, 9)] == pytest.approx([0.85, 0.875, 0.9, 0.95, 0.95])
    low = MuonAdam(all_matrices([nn.Parameter(torch.zeros(2, 2))]), 0.1, (0.9, 0.95), 0.5, warmup_steps=4)
    assert [low.momentum_at(s) for s in (0, 2, 4)] == [0.5, 0.5, 0.5]
    torch.testing.assert_close(moved(momentum=0.95, warmup_steps=10**9), moved(momentum=0.85), atol=1e-5, rtol=1e-5)
    assert (moved(momentum=0.95, warmup_steps=6)[0] - moved(momentum=0.95)[0]).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["adam", "muon"])
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_weight_decay_shrinks_the_matrices_and_nothing_else(name, decay):
    rate = 0.01 if name == "adam" else 0.02

    def step(**settings):
        model = random_weights(TransformerConfig(2, 2, 16, vocab_size=11, n_positions=16))
        before = {key: p.detach().clone() for key, p in model.named_parameters()}
        train(model, OptimConfig(lr=0.01, total_steps=10, name=name, **settings).optimizer(model), steps=1)
        return before, dict(model.named_parameters())

    before, plain = step()
    _, decayed = step(weight_decay=decay)
    _, cautious = step(weight_decay=decay, cautious_decay=True)
    for key, x in before.items():
        is_matrix = "blocks" in key and x.ndim == 2
        shrunk = rate * decay * x * is_matrix
        torch.testing.assert_close(decayed[key], plain[key] - shrunk)
        same_sign = (x - plain[key]) * x >= 0
        torch.testing.assert_close(cautious[key], plain[key] - shrunk * same_sign)
        if is_matrix:
            assert 0.2 < same_sign.float().mean() < 0.8


@pytest.mark.parametrize("cautious", [False, True])
def test_adam_with_weight_decay_is_the_adam_of_torch_followed_by_the_decay(cautious):
    matrices, gradients = matrices_with_gradients((16, 8), steps=4)
    settings = {"lr": 0.01, "betas": (0.9, 0.95)}
    decay = WeightDecay(0.5, cautious)
    ours = after_steps(lambda ps: DecayedAdam(ps, decay, ps, **settings), matrices, gradients)
    p = nn.Parameter(matrices[0].clone())
    plain = torch.optim.Adam([p], **settings)
    for (gradient,) in gradients:
        before, p.grad = p.detach().clone(), gradient
        plain.step()
        shrinks = (before - p.detach()) * before >= 0 if cautious else 1
        p.data -= 0.01 * 0.5 * before * shrinks
    torch.testing.assert_close(ours, [p.detach()])


@pytest.mark.parametrize(
    "settings",
    [
        {"name": "adam"},
        {"name": "adam", "weight_decay": 0.1, "cautious_decay": True},
        {"name": "muon"},
        {"name": "muon", "momentum_warmup_steps": 7, "weight_decay": 0.1},
    ],
)
def test_optimizer_state_survives_saving(settings, tmp_path):
    model, optimizer = model_and_optimizer(**settings)
    train(model, optimizer)
    torch.save((model.state_dict(), optimizer.state_dict()), tmp_path / "state.pt")
    train(model, optimizer)
    other, restored = model_and_optimizer(**settings)
    weights, state = torch.load(tmp_path / "state.pt", weights_only=True)
    other.load_state_dict(weights)
    restored.load_state_dict(state)
    train(other, restored)
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("change", [{"name": "sgd"}, {"schedule": "step"}])
def test_unknown_names_are_refused_with_the_choices(change):
    with pytest.raises(IgptError, match="choose one of"):
        OptimConfig(lr=0.1, total_steps=1, **change)


@pytest.mark.parametrize("name", ["adam", "muon"])
def test_a_checkpoint_brings_moments_and_step_and_the_configuration_everything_else(name):
    def begin(**settings):
        model = random_weights(TransformerConfig(2, 2, 16, vocab_size=11, n_positions=16))
        made = OptimConfig(total_steps=100, name=name, schedule="constant", **settings).configure(model)
        return model, made["optimizer"], made["lr_scheduler"]["scheduler"]

    model, optimizer, schedule = begin(lr=0.01, matrix_lr=0.02, warmup_steps=4)
    train(model, optimizer, steps=1)
    schedule.step()
    optimizer_state, schedule_state = optimizer.state_dict(), schedule.state_dict()

    model, optimizer, schedule = begin(lr=0.5, matrix_lr=0.25, warmup_steps=8, betas=(0.8, 0.9))
    optimizer.load_state_dict(optimizer_state)
    schedule.load_state_dict(schedule_state)
    rates = [0.5] if name == "adam" else [0.5, 0.25, 0.25]
    assert [group["lr"] for group in optimizer.param_groups] == [rate * 2 / 8 for rate in rates]
    assert {group["betas"] for group in optimizer.param_groups} == {(0.8, 0.9)}
    loaded = optimizer.state_dict()["state"]
    torch.testing.assert_close(loaded, optimizer_state["state"], rtol=0, atol=0)
    train(model, optimizer, steps=1)
    schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == [rate * 3 / 8 for rate in rates]
