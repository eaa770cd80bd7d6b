from unittest import mock

import pytest
import torch
from torch.nn import functional as F

from conftest import random_weights
from igpt.batch import TokenBatch
from igpt.model.config import TransformerConfig
from igpt.objectives.masking import Masking
from igpt.objectives.tasks import Autoregressive, Classification, Masked, predict_classes, task_from_state, task_state


def batch_of(n, length=64, vocab=11, epoch=0):
    indices = torch.arange(n)
    tokens = torch.randint(vocab, (n, length), generator=torch.Generator().manual_seed(0))
    return TokenBatch(tokens, indices % 3, indices, torch.full((n,), epoch))


@pytest.fixture
def model():
    return random_weights(TransformerConfig(2, 2, 16, vocab_size=11, n_positions=64, causal=False))


def test_fifteen_in_a_hundred_positions_are_masked():
    predicted = Masking().apply(batch_of(2000), 11).predicted.float()
    assert predicted.mean().item() == pytest.approx(0.15, abs=0.003)
    assert predicted.mean(0).std() < 0.015  # every position alike
    # Independent positions: the number masked in an image has the binomial's variance.
    assert predicted.sum(1).var().item() == pytest.approx(64 * 0.15 * 0.85, rel=0.1)


def test_masks_depend_on_seed_epoch_and_sample_and_nothing_else():
    batch, order = batch_of(50), torch.randperm(50)
    mask = Masking().apply(batch, 11).predicted
    shuffled = Masking().apply(TokenBatch(*(part[order] for part in batch)), 11).predicted
    assert torch.equal(shuffled, mask[order])
    assert torch.equal(Masking().apply(TokenBatch(*(part[20:25] for part in batch)), 11).predicted, mask[20:25])
    for other in (Masking().apply(batch_of(50, epoch=1), 11), Masking(seed=1).apply(batch, 11)):
        assert not torch.equal(other.predicted, mask)


def test_evaluation_masks_are_fixed_and_differ_from_each_other_and_from_training():
    masking = Masking()
    early, late = masking.fixed(batch_of(50, epoch=0)), masking.fixed(batch_of(50, epoch=9))
    assert torch.equal(masking.apply(early, 11).predicted, masking.apply(late, 11).predicted)
    masks = [masking.apply(masking.fixed(batch_of(50), index), 11).predicted for index in range(3)]
    masks.append(masking.apply(batch_of(50), 11).predicted)
    assert len({tuple(mask.flatten().tolist()) for mask in masks}) == 4


def test_at_least_one_position_is_masked():
    assert Masking(ratio=1e-6).apply(batch_of(100), 11).predicted.sum(1).eq(1).all()


def test_a_variable_ratio_covers_its_range():
    shares = Masking(ratio=0.1, max_ratio=0.9).apply(batch_of(500, length=1024), 11).predicted.float().mean(1)
    assert shares.min() < 0.15
    assert shares.max() > 0.85
    assert shares.mean().item() == pytest.approx(0.5, abs=0.03)


def test_berts_treatment():
    batch = batch_of(2000)
    tokens, hidden, predicted = Masking(bert=True).apply(batch, 11)
    chosen = predicted.sum()
    assert (hidden & ~predicted).sum() == 0
    assert (hidden.sum() / chosen).item() == pytest.approx(0.8, abs=0.01)
    changed = tokens != batch.tokens
    assert (changed & (~predicted | hidden)).sum() == 0
    assert (changed.sum() / chosen).item() == pytest.approx(0.1 * 10 / 11, abs=0.01)  # 1 in 11 is the same token
    assert torch.equal(predicted, Masking().apply(batch, 11).predicted)


@torch.no_grad()
def test_loss_is_the_mean_over_masked_positions_of_an_image(model):
    batch = batch_of(4)
    predicted = Masking().apply(batch, 11).predicted
    logits = model(batch.tokens, predicted)
    expected = [F.cross_entropy(logits[i][predicted[i]], batch.tokens[i][predicted[i]]) for i in range(4)]
    torch.testing.assert_close(Masked().run(model, batch).nats, torch.stack(expected))


@torch.no_grad()
def test_the_masked_tokens_do_not_leak(model):
    batch = batch_of(3)
    predicted = Masking().apply(batch, 11).predicted
    other = batch._replace(tokens=torch.where(predicted, (batch.tokens + 1) % 11, batch.tokens))
    torch.testing.assert_close(Masked().run(model, other).hidden, Masked().run(model, batch).hidden)


@torch.no_grad()
def test_features_of_a_masked_model(model):
    batch = batch_of(3)
    torch.testing.assert_close(Masked().features(model, batch, None), model.features(batch.tokens))
    mask = Masking().apply(Masking().fixed(batch, 2), 11).predicted
    torch.testing.assert_close(Masked().features(model, batch, 2), model.features(batch.tokens, mask))


@torch.no_grad()
def test_classes_are_the_modal_vote_over_masks(model):
    head, batch = torch.nn.Linear(16, 4), batch_of(40)
    torch.nn.init.normal_(head.weight, generator=torch.Generator().manual_seed(0))
    usual = Masked().run(model, batch, 0).hidden.mean(dim=(0, 1))
    head.bias.copy_(-head.weight @ usual)  # so that no class wins everywhere
    votes = torch.stack([head(Masked().run(model, batch, d).hidden.mean(1)).argmax(-1) for d in range(5)])
    assert (votes != votes[0]).any()  # the masks matter
    predicted = predict_classes(model, head, Masked(), batch, votes=5)
    assert torch.equal(predicted.classes, votes.mode(dim=0).values)
    torch.testing.assert_close(predicted.nats, Masked().run(model, batch, 0).nats)


@torch.no_grad()
@pytest.mark.parametrize(("task", "passes"), [(Autoregressive(), 1), (Masked(), 5)])
def test_validation_of_a_classifier_runs_the_model_once_per_vote(model, task, passes):
    with mock.patch.object(model, "hidden", wraps=model.hidden) as hidden:
        Classification(task).measure(model, torch.nn.Linear(16, 4), batch_of(3))
    assert hidden.call_count == passes


TASKS = [
    Autoregressive(), Masked(0.3, 0.7, True, seed=5), Classification("mlm", 0.5), Classification(Masked(0.2), votes=3),
]  # fmt: skip


@pytest.mark.parametrize("task", TASKS)
def test_a_task_is_what_its_state_says(task):
    assert task_from_state(task_state(task)) == task
