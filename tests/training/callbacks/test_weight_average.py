"""The average of the weights: its formula, its validation, and that training does not notice it."""

import csv
import json
from types import SimpleNamespace

import pytest
import torch

import igpt
from conftest import SMALL, random_weights
from igpt.model.config import TransformerConfig
from igpt.objectives.objective import Objective
from igpt.objectives.tasks import Autoregressive, Classification
from igpt.training.callbacks.weight_average import WeightAverage

EMA = ("callbacks=ema", "callbacks.ema.decay=0.5")
FEW = (*SMALL, "trainer.max_steps=6", "trainer.val_check_interval=3", "sample_every=99")


def checkpoint(run, name="last"):
    return torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)


def metrics(run):
    with open(run / "metrics.csv") as file:
        return list(csv.DictReader(file))


def objective_of(task, dtype=torch.float32):
    model = random_weights(TransformerConfig(1, 2, 16, vocab_size=11, n_positions=16))
    return Objective(model, task, dict, n_classes=3).to(dtype)


def tell(average, objective, step, accumulate=1, batch=0):
    """That this micro-batch of a step has ended."""
    trainer = SimpleNamespace(global_step=step, accumulate_grad_batches=accumulate)
    average.on_train_batch_end(trainer, objective, None, None, batch)


@pytest.mark.parametrize("task", [Autoregressive(), Classification("ar")])
@pytest.mark.parametrize("decay", [0.4, 0.999])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_average_is_the_weighted_sum_of_all_weights(task, decay, dtype):
    objective, callback = objective_of(task, dtype), WeightAverage(decay)
    callback.on_fit_start(SimpleNamespace(), objective)
    history = [{name: p.detach().double() for name, p in objective.named_parameters()}]
    for step in range(1, 8):
        for p in objective.parameters():
            p.data += torch.randn_like(p)
        tell(callback, objective, step)
        history.append({name: p.detach().double() for name, p in objective.named_parameters()})
    saved = {}
    callback.on_save_checkpoint(SimpleNamespace(), objective, saved)
    average = saved["averaged_weights"]
    kept = [min(decay, (1 + step) / (10 + step)) for step in range(1, 8)]
    shares = [torch.tensor([1.0, *(1 - d for d in kept)])[t] * torch.tensor(kept[t:]).prod() for t in range(8)]
    assert sum(shares) == pytest.approx(1)
    assert set(average) == set(history[0]) == set(objective.state_dict())
    for name, found in average.items():
        expected = sum(share * weights[name] for share, weights in zip(shares, history, strict=True))
        torch.testing.assert_close(found, expected.float())


def test_average_moves_once_per_step_whatever_the_micro_batches():
    objective, callback = objective_of(Autoregressive()), WeightAverage(0.5)
    callback.on_fit_start(SimpleNamespace(), objective)
    before = callback.average["model"].head.weight.clone()
    objective.model.head.weight.data += 1
    tell(callback, objective, 1, accumulate=3, batch=0)
    tell(callback, objective, 1, accumulate=3, batch=1)
    assert torch.equal(callback.average["model"].head.weight, before)
    tell(callback, objective, 1, accumulate=3, batch=2)
    torch.testing.assert_close(callback.average["model"].head.weight, before + 1 - 2 / 11)


def test_the_average_of_a_compiled_model_is_not_compiled():
    objective, callback = objective_of(Autoregressive()), WeightAverage(0.5)
    tokens = torch.randint(11, (2, 16))
    objective.model.compile(backend="eager")
    expected = objective.model(tokens)
    callback.on_fit_start(SimpleNamespace(), objective)
    average = callback.average["model"]
    torch.testing.assert_close(average(tokens), expected)
    assert average.state_dict().keys() == objective.model.state_dict().keys()
    assert all(block._compiled_call_impl is None for block in average.blocks)


def test_validation_and_commands_measure_the_saved_average_and_training_does_not_notice(command, tmp_path):
    command("train", *FEW, "callbacks=default", "hydra.run.dir=without")
    command("train", *FEW, *EMA, "hydra.run.dir=run")
    without, run = (checkpoint(tmp_path / name) for name in ("without", "run"))
    assert set(run) - set(without) == {"averaged_weights"}
    torch.testing.assert_close(run["state_dict"], without["state_dict"], atol=0, rtol=0)
    for ours, theirs in zip(metrics(tmp_path / "run"), metrics(tmp_path / "without"), strict=True):
        for name in ("train/loss", "val/nats_per_token", "test/nats_per_token"):
            assert ours[name] == theirs[name]

    measured = {}
    last = [row for row in metrics(tmp_path / "run") if row["val/nats_per_token"]][-1]
    for weights, name in (("trained", "val/nats_per_token"), ("ema", "val_ema/nats_per_token")):
        command("evaluate", "run=run", "split=validation", "checkpoint=last", f"weights={weights}", "device=cpu")
        result = json.loads((tmp_path / "run" / "evaluation" / f"validation_{weights}_last.json").read_text())
        measured[weights] = result["validation/nats_per_token"]
        assert measured[weights] == pytest.approx(float(last[name]), rel=1e-5)
    assert abs(measured["ema"] - measured["trained"]) > 1e-3


def test_best_checkpoint_may_be_chosen_by_the_average_which_commands_then_use(command, tmp_path):
    command("train", *FEW, *EMA, "monitor=val_ema/nats_per_token", "hydra.run.dir=run")
    run = tmp_path / "run"
    best = checkpoint(run, "best")
    values = {int(row["step"]) + 1: float(row["val_ema/nats_per_token"] or "inf") for row in metrics(run)}
    assert best["global_step"] == min(values, key=values.get)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["weights"] == "ema"
    by_default, averaged, trained = (
        igpt.load(run, device="cpu", weights=weights) for weights in (None, "ema", "trained")
    )
    for loaded, state in ((by_default, "averaged_weights"), (averaged, "averaged_weights"), (trained, "state_dict")):
        assert torch.equal(loaded.model.head.weight, best[state]["model.head.weight"])
    assert not torch.equal(averaged.model.head.weight, trained.model.head.weight)

    command("evaluate", "run=run", "device=cpu")
    evaluated = json.loads((run / "evaluation" / "test.json").read_text())
    assert evaluated["test/nats_per_token"] == pytest.approx(summary["test/nats_per_token"])
    for weights, expected in (("ema", averaged), ("trained", trained)):
        command("export", "run=run", f"output={weights}", "format=igpt", f"weights={weights}")
        exported = igpt.load(tmp_path / weights, device="cpu")
        assert torch.equal(exported.model.head.weight, expected.model.head.weight)
        card = (tmp_path / weights / "README.md").read_text()
        assert (f"{summary['test/nats_per_token']:.4f}" in card) == (weights == "ema")  # measured with these weights
    with pytest.raises(SystemExit) as caught:
        command("evaluate", "run=ema", "weights=ema", "data=emoji")
    assert caught.value.code == "Error: ema is no checkpoint, so it has no averaged weights; leave out weights=ema."


def test_an_average_begins_when_a_run_is_resumed_with_it(command, tmp_path):
    command("train", *FEW, "callbacks=none", "optim.total_steps=6", "trainer.max_steps=3", "hydra.run.dir=run")
    with pytest.raises(SystemExit) as caught:
        command("evaluate", "run=run", "weights=ema")
    assert "has no averaged weights; leave out weights=ema, or train with callbacks=ema" in caught.value.code
    begun = checkpoint(tmp_path / "run")["state_dict"]
    ema = "+callbacks.ema._target_=igpt.training.callbacks.weight_average.WeightAverage"
    command("train", "run=run", ema, "+callbacks.ema.decay=0.25", "trainer.max_steps=4")
    ended = checkpoint(tmp_path / "run")
    for name, average in ended["averaged_weights"].items():
        torch.testing.assert_close(average, 0.25 * begun[name] + 0.75 * ended["state_dict"][name])
