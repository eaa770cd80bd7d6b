"""What a W&B agent starts from the sweep file that ships: one igpt-train, under the id that the agent chose."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import wandb
import yaml
from hydra import compose, initialize_config_module
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from conftest import SMALL
from igpt.cluster.signals import StopSignals
from igpt.metrics_file import read_rows
from igpt.training.callbacks.keep_last import KeepLast
from tracking_server import w_and_b_server

SWEEP = yaml.safe_load((Path(__file__).parents[2] / "experiments" / "sweeps" / "emoji_wandb.yml").read_text())


def chosen(parameter):
    """A value that the server may choose."""
    return parameter["values"][-1] if "values" in parameter else (parameter["min"] * parameter["max"]) ** 0.5


VALUES = {name: chosen(parameter) for name, parameter in SWEEP["parameters"].items()}


@pytest.fixture
def command_line():
    """The words that W&B's agent makes of the sweep file and of what the server has chosen."""
    made = create_sweep_command_args({"args": {name: {"value": value} for name, value in VALUES.items()}})
    known = {"env": ["/usr/bin/env"], "program": [SWEEP["program"]], "interpreter": ["python"], **made}
    words = []
    for word in create_sweep_command(list(SWEEP["command"])):
        words += known[word[2:-1]] if word.startswith("${") else [word]
    return words


def test_the_command_line_composes(command_line):
    assert command_line[:2] == ["/usr/bin/env", "igpt-train"]
    with initialize_config_module("igpt.conf", version_base="1.3"):
        config = compose("train", overrides=command_line[2:])
    assert config.name == "emoji_ar"
    assert "wandb" in config.logger
    for name, value in VALUES.items():
        found = config
        for key in name.split("."):
            found = found[key]
        assert found == value
    assert SWEEP["metric"]["name"] == config.monitor
    assert SWEEP["metric"]["goal"].startswith(config.monitor_mode)


def test_a_run_takes_the_id_that_the_agent_chose(command_line, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    for name, value in {"SWEEP_ID": "sweep1", "RUN_ID": "chosen1", "MODE": "offline", "DIR": str(tmp_path)}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    small = [a for a in SMALL if not a.startswith(("logger", "experiment"))]
    few = ("trainer.max_steps=1", "callbacks=none", "hydra.run.dir=run")
    subprocess.run([*command_line, *small, *few], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "run" / "tracking_id.txt").read_text().strip() == "chosen1"
    assert len(list(tmp_path.rglob("wandb/offline-run-*-chosen1/run-chosen1.wandb"))) == 1
    assert len(list(tmp_path.rglob("*.wandb"))) == 1


@pytest.mark.usefixtures("terminal")
def test_a_preempted_job_is_given_back_and_resumes_when_it_is_given_out_again(
    command_line, command, tmp_path, monkeypatch
):
    small = [a for a in SMALL if not a.startswith(("logger", "experiment"))]
    words = [*command_line[2:], *small, "trainer.max_steps=4", "callbacks=none"]
    save = KeepLast.on_train_batch_start

    def preempted(self, trainer, *arguments):
        if trainer.global_step == 2:
            monkeypatch.setattr(KeepLast, "on_train_batch_start", save)
            os.kill(os.getpid(), signal.SIGTERM)
        save(self, trainer, *arguments)

    monkeypatch.setattr(KeepLast, "on_train_batch_start", preempted)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with w_and_b_server() as server:
        known = {"SWEEP_ID": "sweep1", "RUN_ID": "chosen1", "BASE_URL": server.url, "API_KEY": "x" * 40}
        for name, value in {**known, "ERROR_REPORTING": "false"}.items():
            monkeypatch.setenv(f"WANDB_{name}", value)
        wandb.teardown()
        with pytest.raises(SystemExit, match="130"):
            command("train", *words)
        (run,) = server.runs.values()
        assert (run.name, run.settings["sweep"], run.preempting, run.exit_codes) == ("chosen1", "sweep1", True, [1])
        command("train", *words)
        wandb.teardown()
    assert [*server.runs] == ["chosen1"]
    assert run.exit_codes == [1, 0]
    rows = read_rows(tmp_path / "outputs" / "emoji_ar" / "chosen1" / "metrics.csv")
    assert [row["step"] for row in rows if row["train/loss"]] == ["0", "1", "2", "3"]
    assert [row["trainer/global_step"] for row in run.history if "train/loss" in row] == [0, 1, 2, 3]


@pytest.mark.usefixtures("terminal")
def test_a_requeued_job_of_an_agent_ends_as_one_to_be_given_out_again(monkeypatch):
    """SLURM requeues the agent, and W&B the run."""
    signals, requeued = StopSignals(), []
    monkeypatch.setattr(signals, "_slurm_asked", lambda: True)
    monkeypatch.setattr(signals, "_requeue", lambda: requeued.append("job"))
    for status in ("0", "130"):
        with pytest.raises(SystemExit, match=f"^{status}$"):
            signals.leave()
        monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    assert requeued == ["job", "job"]
