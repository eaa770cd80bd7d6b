"""A run with `trainer.precision=auto` keeps the precision with which it began, wherever it is resumed."""

import json

import pytest
import torch
import yaml

from conftest import SMALL
from igpt.configuration.stored import configuration_of
from igpt.run_directory import RunDirectory
from igpt.training import native_precision

AUTO = (*(a for a in SMALL if "precision" not in a), "hydra.run.dir=run", "callbacks=none", "trainer.accelerator=cpu")


@pytest.fixture
def cpu(monkeypatch, tmp_path):
    """Pretend that the CPU has these flags."""

    def pretend(flags):
        (tmp_path / "cpuinfo").write_text(f"flags\t\t: fpu {flags}\n")
        monkeypatch.setattr(native_precision, "CPUINFO", tmp_path / "cpuinfo")

    return pretend


def stored_precision(run):
    return configuration_of(RunDirectory(run)).trainer.precision


def test_the_choice_is_stored_and_holds_on_another_machine(command, tmp_path, cpu):
    run = tmp_path / "run"
    cpu("avx512_bf16")
    command("train", *AUTO, "trainer.max_steps=2")
    assert yaml.safe_load((run / ".hydra" / "config.yaml").read_text())["trainer"]["precision"] == "bf16-mixed"
    text = (run / "train.log").read_text()
    assert "trainer.precision=auto is bf16-mixed here: this CPU has instructions for bfloat16" in text
    assert "parameters, trained in bf16-mixed" in text
    assert json.loads((run / "summary.json").read_text())["precision"] == "bf16-mixed"
    weights = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"].values()
    assert {weight.dtype for weight in weights if weight.is_floating_point()} == {torch.float32}

    cpu("avx2")
    command("train", *AUTO, "trainer.max_steps=2")  # the same command
    command("train", "run=run", "trainer.max_steps=3")
    assert stored_precision(run) == "bf16-mixed"
    assert json.loads((run / "summary.json").read_text())["precision"] == "bf16-mixed"
    assert "trained in 32-true" not in (run / "train.log").read_text()

    command("train", "run=run", "trainer.max_steps=4", "trainer.precision=auto")
    assert stored_precision(run) == "32-true"
    changes = yaml.safe_load((run / ".hydra" / "changes.yaml").read_text())[-1]
    assert changes["step"] == 3
    assert changes["changes"]["trainer.precision"] == {"from": "bf16-mixed", "to": "32-true"}
    assert "trained in 32-true" in (run / "train.log").read_text()


def test_a_folder_in_which_nothing_was_trained_takes_the_precision_of_this_machine(command, tmp_path, cpu):
    cpu("avx512_bf16")
    with pytest.raises(SystemExit):
        command("train", *AUTO, "data.batch_size=4000")
    cpu("avx2")
    command("train", *AUTO, "trainer.max_steps=1")
    assert stored_precision(tmp_path / "run") == "32-true"
