import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from conftest import random_weights
from igpt.batch import TokenBatch
from igpt.errors import IgptError
from igpt.model.config import TransformerConfig
from igpt.model.transformer import Transformer
from igpt.objectives.objective import Objective
from igpt.objectives.random_orders import GivenPositions, RandomOrders
from igpt.objectives.tasks import Autoregressive, task_from_state, task_state

ANNEALED = RandomOrders(start=10, stop=30, seed=0)
MODERN = {
    "rotary": "2d", "qk_norm": True, "mlp": "relu2", "value_residual": True, "input_shortcut": True,
    "embedding_norm": True, "logit_softcap": 15,
}  # fmt: skip
PARTS = pytest.mark.parametrize("parts", [{}, {"rotary": "2d"}, MODERN], ids=["paper", "rotary", "modern"])


def batch_of(n, length=16, epoch=0):
    tokens = torch.randint(11, (n, length), generator=torch.Generator().manual_seed(0))
    return TokenBatch(tokens, torch.zeros(n), torch.arange(n), torch.full((n,), epoch))


def in_sequence(orders):
    return orders.eq(torch.arange(orders.shape[1])).all(dim=1)


def with_head(task, parts):
    """A model with random weights, and what is trained beside it, random as well."""
    model = random_weights(TransformerConfig(2, 2, 16, vocab_size=11, n_positions=16, **parts))
    head = task.make_head(model.config, 0)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(1))
    return model, head


def test_the_share_of_random_orders_falls_linearly_between_two_steps():
    assert [ANNEALED.share(step) for step in (0, 10, 15, 20, 29, 30, 99)] == [1, 1, 0.75, 0.5, 0.05, 0, 0]
    assert [RandomOrders(5, 5).share(step) for step in (4, 5)] == [1, 0]
    assert RandomOrders(0, 0).share(0) == 0
    shares = [1 - in_sequence(ANNEALED.at(step, batch_of(3000))).float().mean().item() for step in (0, 20, 30)]
    assert shares == [1, pytest.approx(0.5, abs=0.03), 0]


def test_random_orders_are_permutations_with_every_token_first_equally_often():
    orders = ANNEALED.at(0, batch_of(4000))
    assert torch.equal(orders.sort(dim=1).values, torch.arange(16).expand(4000, -1))
    for position in (0, 15):
        assert chisquare(np.bincount(orders[:, position], minlength=16)).pvalue > 1e-3


def test_an_order_depends_on_seed_epoch_and_image_alone():
    orders, some = ANNEALED.at(20, batch_of(100)), torch.randperm(100)[:20]
    part = TokenBatch(*(values[some] for values in batch_of(100)))
    assert torch.equal(ANNEALED.at(20, part), orders[some])
    for other in (ANNEALED.at(20, batch_of(100, epoch=1)), RandomOrders(10, 30, seed=1).at(20, batch_of(100))):
        assert not torch.equal(other, orders)


@PARTS
@pytest.mark.parametrize("transforms", [(), ("rotation",)])
def test_a_random_order_is_the_sequence_of_a_model_with_positions_in_that_order(parts, transforms):
    task = Autoregressive(random_order_steps=[10, 30], transforms=transforms)
    model, head = with_head(task, parts)
    batch = batch_of(12)
    expected = []
    for i, order in enumerate(task.random_orders.at(20, batch)):
        other = Transformer(model.config, None if model.coordinates is None else model.coordinates[order])
        weights = {**model.state_dict(), **{n: w for n, w in other.state_dict().items() if n.startswith("rotary")}}
        table = model.position_embedding.weight[order].clone()
        table[1:] += head["given_positions"].weight[order[:-1]]
        one = TokenBatch(*(part[i : i + 1] for part in batch))
        if transforms:
            table += task.told(head, one)[0]
        other.load_state_dict({**weights, "position_embedding.weight": table.detach()})
        expected.append(Autoregressive().losses(other, None, one._replace(tokens=one.tokens[:, order])).loss)
    assert 0 < in_sequence(task.random_orders.at(20, batch)).sum() < 12
    torch.testing.assert_close(task.losses_at(20, model, head, batch).loss, torch.stack(expected).mean())


@PARTS
def test_after_annealing_the_model_is_an_ordinary_one(parts):
    task = Autoregressive(random_order_steps=[0, 10], transforms=["rotation"])
    model, head = with_head(task, parts)
    objective = Objective(model, task, lambda module: {})
    objective.head.load_state_dict(head.state_dict())
    ordinary, weights = task.trained(objective.state_dict())
    assert ordinary == Autoregressive()
    assert set(weights) == {f"model.{name}" for name in objective.model.state_dict()}
    random_state = torch.get_rng_state()
    merged, batch = objective.trained_model(), batch_of(8)
    assert torch.equal(torch.get_rng_state(), random_state)
    torch.testing.assert_close(merged.state_dict(), {n.removeprefix("model."): w for n, w in weights.items()})
    assert not torch.equal(merged.position_embedding.weight, objective.model.position_embedding.weight)
    expected = ordinary.run(merged, batch, mask_index=0).nats
    torch.testing.assert_close(task.measure(objective.model, objective.head, batch)["nats_per_token"], expected)
    annealed = Autoregressive(random_order_steps=[0, 10]).losses_at(10, objective.model, objective.head, batch).loss
    torch.testing.assert_close(annealed, expected.mean())


def test_a_model_with_nothing_to_merge_is_evaluated_itself():
    task = Autoregressive(transforms=["flip"])
    objective = Objective(with_head(task, {})[0], task, lambda module: {})
    assert objective.trained_model() is objective.model


def test_given_positions_start_at_zero_and_the_first_one_has_none():
    given = GivenPositions(4, 3)
    assert given.weight.eq(0).all()
    torch.nn.init.normal_(given.weight)
    added = given(torch.tensor([[2, 0, 3, 1]]))[0]
    assert torch.equal(added, torch.stack([torch.zeros(3), *given.weight[[2, 0, 3]]]))


def test_what_cannot_be_is_refused():
    with pytest.raises(IgptError, match=r"random_order_steps is \[3, 2\]; it must be two steps"):
        Autoregressive(random_order_steps=[3, 2])
    task = Autoregressive(random_order_steps=[2, 3], seed=4)
    assert task_from_state(task_state(task)) == task
    with pytest.raises(IgptError, match="needs model.positions=learned, not none"):
        task.make_head(TransformerConfig(1, 1, 8, positions="none", rotary="2d"), 0)
