"""Options of the pre-training tasks that change training alone: the trained model is an ordinary one."""

import csv
import json

import pytest
import torch

import igpt
from conftest import SMALL, run_command
from igpt.objectives.tasks import Autoregressive

OPTIONS = (
    "objective.transforms=[rotation,colors]", "objective.random_order_steps=[1,9]", "model.rotary=2d",
    "+callbacks.probe={_target_: igpt.training.callbacks.online_probe.OnlineProbe, every_n_steps: 4, n_train: 50}",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a run of four steps."""
    folder = tmp_path_factory.mktemp("options")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IGPT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        steps = ("trainer.max_steps=4", "trainer.val_check_interval=4", "sample_every=4", "hydra.run.dir=run")
        run_command("train", *SMALL, *OPTIONS, *steps, cwd=folder)
    return folder


def test_the_loaded_model_has_what_validation_measured(folder, command):
    with open(folder / "run" / "metrics.csv") as file:
        (validated,) = [row["val/nats_per_token"] for row in csv.DictReader(file) if row["val/nats_per_token"]]
    command("evaluate", f"run={folder / 'run'}", "checkpoint=last", "split=validation")
    measured = json.loads((folder / "run" / "evaluation" / "validation_last.json").read_text())
    assert measured["validation/nats_per_token"] == pytest.approx(float(validated), rel=1e-6)
    assert igpt.load(folder / "run").task == Autoregressive()


def test_the_resolution_changes_at_the_step_of_a_stage_also_in_a_resumed_run(command, tmp_path):
    stages = (
        *SMALL, "objective.stages=[[2,2],[4,5]]", "data.device_batch_size=8", "data.num_workers=2",
        "+callbacks.record._target_=recorder.RecordBatches", "+callbacks.record.folder=${run_dir}/seen",
        "sample_every=null", "optim.total_steps=7",
    )  # fmt: skip
    command("train", *stages, "trainer.max_steps=7", "hydra.run.dir=whole")
    command("train", *stages, "trainer.max_steps=3", "hydra.run.dir=cut")
    command("train", "run=cut", "trainer.max_steps=7")
    for name in ("whole", "cut"):
        lines = (tmp_path / name / "seen" / "0.jsonl").read_text().splitlines()
        seen = [(line["step"], line["tokens"]) for line in map(json.loads, lines)]
        tokens = [4, 4, 16, 16, 16, 64, 64]
        assert seen == [(step, tokens[step]) for step in range(7) for _ in range(2)]
    whole, cut = (igpt.load(tmp_path / name).model.state_dict() for name in ("whole", "cut"))
    torch.testing.assert_close(cut, whole, rtol=0, atol=0)


def test_the_exported_model_is_the_same(folder, command):
    command("export", f"run={folder / 'run'}", "format=igpt", f"output={folder / 'exported'}")
    run, exported = (igpt.load(folder / name).model.state_dict() for name in ("run", "exported"))
    torch.testing.assert_close(exported, run, rtol=0, atol=0)
