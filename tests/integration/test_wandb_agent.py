"""What a W&B agent starts from the sweep file that ships: one igpt-train, under the id that the agent chose."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_module
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from conftest import SMALL

SWEEP = yaml.safe_load((Path(__file__).parents[2] / "experiments" / "sweeps" / "emoji_wandb.yaml").read_text())


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
