import math

import pytest
import torch

from conftest import random_weights
from igpt.errors import IgptError
from igpt.model.config import TransformerConfig
from igpt.training.muon import orthogonalize
from igpt.training.optimizers import OptimConfig


def test_schedule_is_linear_then_half_a_cosine():
    config = OptimConfig(lr=1.0, total_steps=110, warmup_steps=10)
    assert [config.lr_factor(s) for s in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
    assert config.lr_factor(10) == 1
    assert config.lr_factor(60) == pytest.approx(0.5)
    assert config.lr_factor(85) == pytest.approx(0.5 * (1 + math.cos(0.75 * math.pi)))
    assert config.lr_factor(110) == config.lr_factor(200) == pytest.approx(0)
    assert OptimConfig(lr=1.0, total_steps=110, warmup_steps=10, schedule="constant").lr_factor(109) == 1


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 64, 16), (2, 16, 64)])
def test_orthogonalized_matrices_keep_singular_vectors_and_even_out_the_values(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    result = orthogonalize(matrices)
    values = torch.linalg.svdvals(result)
    assert values.min() > 0.5
    assert values.max() < 1.3
    u, _, vt = torch.linalg.svd(matrices, full_matrices=False)
    rotated = u.mT @ result @ vt.mT
    torch.testing.assert_close(rotated, torch.diag_embed(rotated.diagonal(dim1=-2, dim2=-1)), atol=1e-4, rtol=0)


def model_and_optimizer(name):
    model = random_weights(TransformerConfig(2, 2, 16, vocab_size=11, n_positions=16))
    return model, OptimConfig(lr=0.01, total_steps=10, name=name).optimizer(model)


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


@pytest.mark.parametrize("name", ["adam", "muon"])
def test_optimizer_state_survives_saving(name, tmp_path):
    model, optimizer = model_and_optimizer(name)
    train(model, optimizer)
    torch.save((model.state_dict(), optimizer.state_dict()), tmp_path / "state.pt")
    train(model, optimizer)
    other, restored = model_and_optimizer(name)
    weights, state = torch.load(tmp_path / "state.pt", weights_only=True)
    other.load_state_dict(weights)
    restored.load_state_dict(state)
    train(other, restored)
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("change", [{"name": "sgd"}, {"schedule": "linear"}])
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
    rates = [0.5] if name == "adam" else [0.5, 0.25]
    assert [group["lr"] for group in optimizer.param_groups] == [rate * 2 / 8 for rate in rates]
    assert {group["betas"] for group in optimizer.param_groups} == {(0.8, 0.9)}
    loaded = optimizer.state_dict()["state"]
    torch.testing.assert_close(loaded, optimizer_state["state"], rtol=0, atol=0)
    train(model, optimizer, steps=1)
    schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == [rate * 3 / 8 for rate in rates]
