import dataclasses
import time
from types import SimpleNamespace

import pytest
import torch

from conftest import random_weights
from igpt.batch import TokenBatch
from igpt.errors import IgptError
from igpt.model.config import TransformerConfig
from igpt.model.transformer import MLP
from igpt.objectives.objective import Objective
from igpt.objectives.tasks import Autoregressive
from igpt.planning.compute import measure
from igpt.training.callbacks.speed_hints import WINDOW, Speed, StepTimes, hints
from igpt.training.callbacks.throughput import (
    Throughput,
    arithmetic_of,
    find_card,
    flops_per_image,
    measured_flops,
    peak_flops,
)

FAST = Speed(
    capability=(9, 0), arithmetic="bf16", matmul_precision="high", head_size=64, device_tokens=2**17, steps=10**6,
    compiled=True,
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"arithmetic": "fp32", "matmul_precision": "highest"}, "matmul_precision=high"),
        ({"head_size": 20}, "multiple of 8"),
        ({"device_tokens": 1024}, "larger data.batch_size"),
        ({"compiled": False}, "compile=true"),
    ],
)
def test_each_slow_choice_has_one_hint(change, expected):
    assert hints(FAST) == []
    (hint,) = hints(dataclasses.replace(FAST, **change))
    assert expected in hint
    assert hints(dataclasses.replace(FAST, **change, capability=None)) == []  # a CPU has no better choice


def test_no_hint_where_the_choice_costs_nothing():
    turing = dataclasses.replace(FAST, capability=(7, 5), arithmetic="fp32", matmul_precision="highest")
    assert hints(turing) == []  # has no TF32
    assert hints(dataclasses.replace(FAST, compiled=False, steps=1000)) == []


def hints_of(threads, steps, **settings):
    """The hints for steps of so many seconds and CPU seconds."""
    times = StepTimes(threads, **settings)
    return [hint for step in steps if (hint := times.add(*step))]


def test_steps_of_very_different_lengths_are_noticed_once():
    uneven = [(0.5, 1.0), (0.5, 1.0), (0.5, 1.0), (0.5, 1.0), (4.0, 8.0)] * WINDOW
    (hint,) = hints_of(2, uneven)
    assert "longer than 4 s (median 500 ms)" in hint
    assert "OMP_WAIT_POLICY=passive" in hint


def test_threads_without_a_core_are_noticed_once():
    (hint,) = hints_of(2, [(3.0, 1.2)] * 5 * WINDOW)  # 0.4 of two cores
    assert hint.startswith("The 2 threads of a step get 0.4 CPU cores on average")
    (hint,) = hints_of(2, [(3.0, 1.2)] * 5 * WINDOW, busy_waiting=False)
    assert "OMP_WAIT_POLICY" not in hint  # it is passive already


def test_steady_steps_give_no_hint():
    first = [(60.0, 60.0)]  # is compiled
    assert hints_of(2, first + [(0.5 + 0.01 * (i % 7), 0.9) for i in range(5 * WINDOW)]) == []
    assert hints_of(2, [(1.0, 1.01)] * 5 * WINDOW) == []  # half of what they could have
    assert hints_of(2, [(0.5, 0.1)] * (WINDOW - 1)) == []  # too few to tell


def test_training_on_a_busy_cpu_says_so(monkeypatch, caplog):
    clock = [0.0]
    monkeypatch.setattr("igpt.training.callbacks.throughput.now_and_cpu", lambda: (clock[0], clock[0] / 10))
    monkeypatch.setattr("igpt.training.callbacks.throughput.peak_flops", lambda device, arithmetic: 1e9)
    trainer = SimpleNamespace(
        global_step=0, log_every_n_steps=10**6, accumulate_grad_batches=1, world_size=1, precision="32-true",
        is_global_zero=True, max_steps=6,
    )  # fmt: skip
    objective, callback = Recorded(), Throughput(batch_size=8)
    callback.on_train_start(trainer, objective)
    for batch in range(3 * WINDOW):
        callback.on_train_batch_start(trainer, objective, None, batch)
        clock[0] += 1.0
        callback.on_train_batch_end(trainer, objective, None, batch_of(16), batch)
        clock[0] += 100.0  # a validation, a save
    (line,) = caplog.messages
    assert "(median 1 s)" in line


def batch_of(n_tokens):
    return TokenBatch(*[torch.zeros(1, n_tokens)] * 4)


class Recorded(Objective):
    def __init__(self):
        config = TransformerConfig(n_layer=2, n_head=2, n_embd=16, vocab_size=11, n_positions=16)
        super().__init__(random_weights(config), Autoregressive(), configure=None)
        self.rows = []

    def log_dict(self, values, **_):
        self.rows.append(values)

    def logged(self, name):
        """The values of a metric, in order."""
        return [row[name] for row in self.rows if name in row]


def test_speed_counts_neither_the_first_step_nor_validation(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr("igpt.training.callbacks.throughput.peak_flops", lambda device, arithmetic: 1e9)
    trainer = SimpleNamespace(
        global_step=0, log_every_n_steps=2, accumulate_grad_batches=2, world_size=4, precision="32-true",
        is_global_zero=True, max_steps=6,
    )  # fmt: skip
    objective, callback = Recorded(), Throughput(batch_size=24)
    callback.on_train_start(trainer, objective)
    for batch in range(12):  # six steps of two micro-batches
        callback.on_train_batch_start(trainer, objective, None, batch)
        clock[0] += 50.0 if batch == 0 else 0.5
        trainer.global_step = (batch + 1) // 2
        callback.on_train_batch_end(trainer, objective, None, batch_of(16), batch)
        if batch == 7:
            callback.on_validation_start(trainer, objective)
            clock[0] += 1000.0
    assert objective.logged("speed/images_per_second") == [24.0, 24.0, 24.0]
    row = next(row for row in objective.rows if "speed/mfu" in row)
    assert row["speed/tokens_per_second"] == 24 * 16
    # Products with weights: 2 FLOPs each, once forward and twice backward; then attention, at least as much again.
    linear = 24 * 16 * 3 * 2 * (2 * 12 * 16**2 + 16 * 11)
    attention = 24 * 3 * 2 * (2 * 2 * 16**2 * 16)
    assert linear + attention <= row["speed/flops_per_second"] <= linear + 1.2 * attention  # some kernels repeat QK'
    assert row["speed/mfu"] == pytest.approx(row["speed/flops_per_second"] / 4e9)
    assert 0.05 < row["speed/peak_memory_gb"] < 1000


def test_a_stage_of_another_resolution_is_counted_from_its_second_step_on(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr("igpt.training.callbacks.throughput.peak_flops", lambda device, arithmetic: None)
    trainer = SimpleNamespace(
        global_step=0, log_every_n_steps=3, accumulate_grad_batches=1, world_size=1, precision="32-true",
        is_global_zero=True, max_steps=9,
    )  # fmt: skip
    objective, callback = Recorded(), Throughput(batch_size=8)
    callback.on_train_start(trainer, objective)
    for step in range(9):
        callback.on_train_batch_start(trainer, objective, None, step)
        clock[0] += 0.5 if step < 4 else 2.0
        trainer.global_step = step + 1
        callback.on_train_batch_end(trainer, objective, None, batch_of(4 if step < 4 else 16), step)
    assert objective.logged("speed/images_per_second") == [16.0, 4.0, 4.0]
    assert objective.logged("speed/tokens_per_second") == [16 * 4, 4 * 16, 4 * 16]
    config = objective.model.config
    small, large = measure(dataclasses.replace(config, n_positions=4)).flops, measure(config).flops
    assert objective.logged("speed/flops_per_second") == [16 * small, 4 * large, 4 * large]
    assert objective.logged("data/images") == [24, 48, 72]
    assert objective.logged("data/flops") == [8 * 3 * small, 8 * (4 * small + 2 * large), 8 * (4 * small + 5 * large)]


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("Tesla V100-SXM2-32GB", "v100"),
        ("NVIDIA RTX A1000", None),
        ("NVIDIA A10", None),
    ],
)
def test_cards_are_known_by_their_names(name, key, monkeypatch):
    assert find_card(name) == key
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    peak = peak_flops(torch.device("cuda"), "fp16")
    assert (peak is None) == (key is None)


def test_tf32_is_a_peak_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100-SXM4-80GB")
    for precision, peak in (("highest", 19.5e12), ("high", 156e12)):
        monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda precision=precision: precision)
        assert peak_flops(torch.device("cuda"), "fp32") == peak
    assert arithmetic_of(SimpleNamespace(precision="bf16-mixed")) == "bf16"
    assert peak_flops(torch.device("cuda"), arithmetic_of(SimpleNamespace(precision="64-true"))) is None


def test_the_measured_peak_leaves_the_random_numbers_alone():
    before = torch.get_rng_state()
    assert measured_flops(torch.float32, size=64) > 1e6
    assert torch.equal(torch.get_rng_state(), before)


class NeedsValues(MLP):
    """Computes with the values of its input, as a kernel for one kind of device does."""

    def activate(self, x):
        return x * float(x.detach().abs().amax())


def test_a_part_whose_flops_cannot_be_counted_is_trained_without_them(caplog):
    caplog.set_level("INFO")
    config = TransformerConfig(1, 1, 8, vocab_size=5, n_positions=4, mlp=f"{__name__}.NeedsValues")
    assert flops_per_image(config) is None
    assert "No FLOPs are logged. The FLOPs of a model with model.mlp=" in caplog.text
    with pytest.raises(IgptError, match="does not compute on torch's meta device"):
        measure(config)

    callback = Throughput(batch_size=8)
    callback._image_tokens, callback._image_flops, callback._peak = 4, None, 1e9
    assert callback.rates(2.0) == {"images_per_second": 2.0, "tokens_per_second": 8.0}
    callback._image_flops = 100
    assert callback.rates(2.0)["flops_per_second"] == 200
    assert callback.rates(2.0)["mfu"] == pytest.approx(2e-7)
