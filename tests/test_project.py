"""The project's own files agree with each other."""

import configparser
import os
import runpy
import subprocess
import sys
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_module

from igpt.commands.train import main as train_command
from igpt.model.config import PRESETS, TransformerConfig

ROOT = Path(__file__).parents[1]
DATA = {
    "arrays", "cifar10", "cifar100", "emoji", "fashion_mnist", "folder", "hub", "imagenet", "imagenet32", "imagenet64",
    "mnist", "stl10",
}  # fmt: skip
EXPERIMENTS = sorted(path.stem for path in (ROOT / "experiments").glob("*.yaml"))


@pytest.fixture
def setup():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


SCRIPTS = configparser.ConfigParser()
SCRIPTS.read(ROOT / "setup.cfg")
SCRIPTS = [line.split(" = ") for line in SCRIPTS["options.entry_points"]["console_scripts"].split("\n") if line]


@pytest.mark.parametrize(("script", "entry"), SCRIPTS)
def test_a_command_is_its_module_run_by_python(script, entry, monkeypatch, capsys):
    module, function = entry.split(":")
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit, match="0"):
        getattr(import_module(module), function)()
    page = capsys.readouterr().out
    assert page.startswith(script)
    monkeypatch.delitem(sys.modules, module)  # as in a fresh process
    with pytest.raises(SystemExit, match="0"):
        runpy.run_module(module, run_name="__main__")
    assert capsys.readouterr().out == page


def test_what_all_data_share_is_no_choice(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["igpt-train", "--help"])
    with pytest.raises(SystemExit, match="0"):
        train_command()
    (choices,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("data: ")]
    assert set(choices.removeprefix("data: ").split(", ")) == DATA
    monkeypatch.setattr(sys, "argv", ["igpt-train", "data=nonesuch"])
    with pytest.raises(SystemExit) as caught:
        train_command()
    assert "base" not in str(caught.value)
    assert "imagenet64" in str(caught.value)


def test_conda_environment_asks_for_what_setup_cfg_asks_for(setup):
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    from_pip = next(d["pip"] for d in dependencies if isinstance(d, dict))
    assert [d for d in from_pip if not d.startswith("--")] == setup["options"]["install_requires"].split()


def test_every_folder_with_code_or_configuration_is_packaged(setup):
    listed = set(setup["options"]["packages"].split())
    found = {
        ".".join((*prefix, *path.parent.relative_to(base).parts))
        for base, prefix in ((ROOT / "src" / "igpt", ("igpt",)), (ROOT / "conf", ("igpt", "conf")))
        for path in base.rglob("__init__.py")
    }
    assert found | {"igpt.conf.experiment", "igpt.conf.experiment.paper"} == listed


def test_no_two_modules_have_one_name():
    names = [path.name for path in (ROOT / "src" / "igpt").rglob("*.py") if path.name != "__init__.py"]
    assert len(names) == len(set(names))


def test_every_other_file_of_the_package_is_packaged(setup):
    patterns = [p for names in setup["options.package_data"].values() for p in names.replace(",", " ").split()]
    files = [path for path in (ROOT / "src" / "igpt").rglob("*.*") if path.suffix not in (".py", ".pyc")]
    assert {"decoder.c", "model.safetensors"} < {path.name for path in files}
    assert [path for path in files if not any(path.match(pattern) for pattern in patterns)] == []


def test_model_presets_on_the_command_line_are_those_in_python():
    of_the_data = {"n_positions": None, "vocab_size": 1, "causal": True}
    with initialize_config_module("igpt.conf", version_base="1.3"):
        for name, preset in PRESETS.items():
            model = compose("train", [f"model={name}"]).model
            assert {**model, **of_the_data} == {**asdict(TransformerConfig(**preset)), **of_the_data}
    assert {p.stem for p in (ROOT / "conf" / "model").glob("*.yaml")} == set(PRESETS)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes_has_a_note_and_names_its_runs_after_itself(experiment):
    recipe = (ROOT / "experiments" / f"{experiment}.yaml").read_text().splitlines()
    command = recipe[1].removeprefix("# igpt-").split(":")[0]
    with initialize_config_module("igpt.conf", version_base="1.3"):
        config = compose(command, overrides=[f"experiment={experiment}"])
    assert config.name == experiment
    assert (ROOT / "experiments" / f"{experiment}.md").read_text().startswith("# ")


@pytest.mark.parametrize("group", ["trainer", "logger", "callbacks", "optim", "debug"])
def test_every_choice_of_every_group_composes(group):
    for path in (ROOT / "conf" / group).glob("*.yaml"):
        with initialize_config_module("igpt.conf", version_base="1.3"):
            config = compose("train", overrides=[f"{group}={path.stem}"])
        assert group == "debug" or config[group] is not None


def test_constraints_pin_torch_for_repeatable_installs():
    assert "torch==2.13.0" in (ROOT / "constraints.txt").read_text().split()


@pytest.mark.parametrize("script", sorted((ROOT / "examples" / "sbatch").glob("*.sbatch")), ids=lambda path: path.stem)
def test_sbatch_scripts_name_a_folder_unless_a_run_is_resumed(script, tmp_path):
    for program in ("srun", "scontrol"):
        (tmp_path / program).write_text("#!/bin/bash\nprintf '%s\\n' \"$@\"\n")
        (tmp_path / program).chmod(0o755)
    job = {"SLURM_JOB_ID": "7", "SLURM_NNODES": "2", "SLURM_NTASKS_PER_NODE": "3", "SLURM_JOB_NODELIST": "n1"}
    environment = {**os.environ, **job, "GPUS": "3", "PATH": f"{tmp_path}:{os.environ['PATH']}"}

    def arguments(*given):
        said = subprocess.run(["bash", script, *given], env=environment, capture_output=True, check=True, text=True)
        return said.stdout.split("igpt-train\n")[1].splitlines()

    end = ["trainer.devices=3", "trainer.num_nodes=2"]
    assert arguments("seed=1", "name=a b") == ["seed=1", "name=a b", "hydra.run.dir=outputs/slurm/7", *end]
    assert arguments() == ["hydra.run.dir=outputs/slurm/7", *end]
    assert arguments("name=rerun=1", "hydra.run=x")[2] == "hydra.run.dir=outputs/slurm/7"
    for resumed in (["run=R"], ["seed=1", "run=R s"]):
        assert arguments(*resumed) == [*resumed, *end]
