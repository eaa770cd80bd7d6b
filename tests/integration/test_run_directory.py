"""The run directory: who may write there, what a resume may change, and that a refusal changes nothing at all."""

import csv
import dataclasses
import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
import pytorch_lightning as pl
import torch
import yaml
from hydra import compose, initialize_config_module

from conftest import SMALL, run_command
from igpt.configuration.resume import MAY_CHANGE, may_change
from igpt.configuration.stored import configuration_of
from igpt.errors import IgptError
from igpt.run_directory import RunDirectory
from igpt.run_lock import Owner, start_time
from igpt.sweeps.sweep_results import write_table
from igpt.sweeps.sweep_table import SweepTable, write_results_and_unlock

FEW = (*SMALL, "trainer.val_check_interval=4", "trainer.max_steps=8", "sample_every=99")
STOP = ("+callbacks.stop._target_=stopper.StopAt", "+callbacks.stop.step=5")


def refused(command, *arguments):
    with pytest.raises(SystemExit) as caught:
        command("train", *arguments)
    message = caught.value.code
    assert isinstance(message, str), arguments
    assert message.startswith("Error: "), arguments
    return message


def everything(folder):
    """The bytes of all files below a folder, and its folders."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def metrics(run):
    with open(run / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return [(row["step"], row["train/nats_per_token"], row["val/nats_per_token"]) for row in rows]


def weights(run, name="last"):
    return torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The run directory of a run that somebody stopped after 5 of 8 steps, and that of the same run in one go."""
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IGPT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        with pytest.raises(SystemExit) as caught:
            run_command("train", *FEW, *STOP, "hydra.run.dir=cut", cwd=folder)
        assert caught.value.code == 130
        run_command("train", *FEW, "hydra.run.dir=whole", cwd=folder)
    return folder


@pytest.fixture
def cut(stopped, tmp_path):
    """A copy of the run that was stopped, which tests may change."""
    return Path(shutil.copytree(stopped / "cut", tmp_path / "cut"))


REFUSED = [
    ("model.n_layer=2", "trainer.max_steps=20"),
    ("model.n_embd=64",),
    ("model.n_head=2",),
    ("tokenizer.size=8",),
    ("tokenizer.path=palette.npz",),
    ("data.source.resolution=16",),
    ("data.batch_size=8",),
    ("data.augment._target_=igpt.data.augment.Identity",),
    ("data.max_unreadable=0.5",),
    ("seed=1",),
    ("order=hilbert",),
    ("name=other",),
    ("objective._target_=igpt.objectives.tasks.Masked", "~objective.random_order_steps"),
    ("optim.name=adam",),
    ("optim.betas=[0.8,0.9]",),
    ("optim.momentum=0.5",),
    ("monitor=val/bits_per_token",),
    ("monitor_mode=max",),
    ("+callbacks.best.save_top_k=3",),
    ("callbacks.best.mode=max",),
    ("~callbacks.best",),
    ("trainer.limit_val_batches=1",),
    ("run_dir=elsewhere",),
    ("optim.lr=-1",),
    ("+optm.lr=0.1",),
    ("modl.n_layer=2",),
    ("model=xs",),
    ("trainer=gpu",),
    ("data/augment=none",),
    ("-m", "optim.lr=0.1,0.2"),
    ("hydra.run.dir=elsewhere",),
    # These are found out late.
    ("trainer.max_steps=4",),
    ("trainer.max_steps=4", "logger=wandb"),
    ("data.batch_size=16", "trainer.strategy=ddp", "trainer.accelerator=cpu", "trainer.devices=3"),
    ("data.source.path=elsewhere",),
]


def test_a_refused_resume_changes_no_byte_and_the_run_resumes_exactly(command, stopped, cut, tmp_path):
    before = everything(tmp_path)
    for overrides in REFUSED:
        message = refused(command, f"run={cut}", *overrides)
        assert everything(tmp_path) == before, overrides
        assert any(override.lstrip("+~").partition("=")[0] in message for override in overrides), message
    command("train", f"run={cut}")
    assert metrics(cut) == metrics(stopped / "whole")
    for name in ("last", "best"):
        assert all(map(torch.equal, weights(cut, name).values(), weights(stopped / "whole", name).values()))


def test_changes_hold_until_the_next_and_are_kept_with_their_steps(command, cut, tmp_path):
    began = (cut / ".hydra" / "config.yaml").read_bytes()
    for changes in (("trainer.max_steps=12", "callbacks.stop.step=7"), ("~callbacks.stop", "optim.lr=0.001")):
        with pytest.raises(SystemExit) if "callbacks.stop.step=7" in changes else pytest.MonkeyPatch.context():
            command("train", f"run={cut}", *changes)
    assert metrics(cut)[-1][0] == "11"
    assert (cut / ".hydra" / "config.yaml").read_bytes() == began
    first, second = yaml.safe_load((cut / ".hydra" / "changes.yaml").read_text())
    assert (first["step"], second["step"]) == (5, 7)
    assert first["changes"] == {"trainer.max_steps": {"from": 8, "to": 12}, "callbacks.stop.step": {"from": 5, "to": 7}}
    assert second["changes"]["callbacks.stop"] == {"from": {"_target_": "stopper.StopAt", "step": 7}}

    # The configuration in force is the first one with all changes in their order, by a few lines of our own.
    expected = yaml.safe_load(began)
    for entry in (first, second):
        for key, change in entry["changes"].items():
            *path, name = key.split(".")
            node = expected
            for part in path:
                node = node[part]
            if "to" in change:
                node[name] = change["to"]
            else:
                del node[name]
    assert yaml.safe_load((cut / ".hydra" / "resumed.yaml").read_text()) == expected  # with ${...} in place
    before = metrics(cut)
    command("train", f"run={cut}", "~callbacks.stop")  # as it is, and says so again, as a requeued job does
    assert metrics(cut) == before
    assert json.loads((cut / "summary.json").read_text())["steps"] == 12
    assert len(yaml.safe_load((cut / ".hydra" / "changes.yaml").read_text())) == 2


def applied(trainer, module, data):
    """What training would go by, under the keys of the configuration."""
    found = {type(callback).__name__: callback for callback in trainer.callbacks}
    optimizer = module.configure_optimizers()
    others, matrices, _ = optimizer["optimizer"].param_groups
    rates = [optimizer["lr_scheduler"]["scheduler"].lr_lambdas[0](step) for step in range(trainer.max_steps)]
    decay = trainer.max_steps - max(step for step, rate in enumerate(rates) if rate == 1)  # in steps
    return {
        "trainer.max_steps": trainer.max_steps,
        "trainer.val_check_interval": trainer.val_check_interval // trainer.accumulate_grad_batches,
        "trainer.log_every_n_steps": trainer.log_every_n_steps,
        "trainer.gradient_clip_val": trainer.gradient_clip_val,
        "trainer.accelerator": trainer.strategy.root_device.type,
        "trainer.devices": trainer.world_size,
        "trainer.strategy": type(trainer.strategy).__name__.removesuffix("Strategy").lower(),
        "trainer.precision": trainer.precision,
        "data.device_batch_size": data.batch_size // trainer.world_size // trainer.accumulate_grad_batches,
        "data.eval_batch_size": data.eval_batch_size,
        "data.num_workers": data.num_workers,
        "data.processes": data.processes,
        "data.cache_dir": str(data.cache_dir),
        "save_every": found["KeepLast"].every_n_steps,
        "sample_every": found["SampleImages"].every_n_steps,
        "image_class": found["SampleImages"].image_class,
        "sampling.top_k": found["SampleImages"].sampling.top_k,
        "callbacks.sample.n_samples": found["SampleImages"].n_samples,
        "optim.lr": others["initial_lr"],
        "optim.matrix_lr": matrices["initial_lr"],
        "optim.warmup_steps": 1 / rates[0],
        "optim.schedule": "wsd" if rates[1 - decay] == pytest.approx(1 - decay**-0.5) else "another",
        "optim.decay_share": decay / trainer.max_steps,
        "activation_checkpointing": module.model.checkpointing,
    }


ELSEWHERE = {  # tested below, and in evaluation/test_evaluators.py
    "compile", "matmul_precision", "optim.total_steps", "trainer.num_nodes", "trainer.strategy.*",
    "data.source.path", "data.source.root", "logger.*", "evaluators.*",
}  # fmt: skip


def test_what_may_change_is_applied(command, cut, tmp_path, monkeypatch):
    wanted = {
        "trainer.max_steps": 30, "trainer.val_check_interval": 3, "trainer.log_every_n_steps": 2,
        "trainer.gradient_clip_val": 0.5, "trainer.accelerator": "cpu", "trainer.devices": 2, "trainer.strategy": "ddp",
        "trainer.precision": "bf16-mixed", "data.device_batch_size": 4, "data.eval_batch_size": 33,
        "data.num_workers": 1, "data.processes": 1, "data.cache_dir": str(tmp_path / "other_cache"), "save_every": 7,
        "sample_every": 11, "image_class": 1, "sampling.top_k": 5, "callbacks.sample.n_samples": 3, "optim.lr": 0.5,
        "optim.matrix_lr": 0.25, "optim.warmup_steps": 4, "optim.schedule": "wsd",
        "optim.decay_share": 0.5, "activation_checkpointing": True,
    }  # fmt: skip
    seen = {}

    def fit(trainer, module, data, **_):
        seen.update(applied(trainer, module, data))
        raise IgptError("Seen.")

    monkeypatch.setattr(pl.Trainer, "fit", fit)
    assert refused(command, f"run={cut}", *(f"{key}={value}" for key, value in wanted.items())) == "Error: Seen."
    assert seen == pytest.approx(wanted)
    tested = {key.split(".")[0] + ".*" if key.startswith(("sampling", "callbacks")) else key for key in wanted}
    assert tested | ELSEWHERE == set(MAY_CHANGE)


def test_changes_for_another_machine_are_applied(command, cut, monkeypatch):
    """A cosine, compiled, for a GPU that multiplies in TF32, on two nodes, with options of the strategy."""
    seen = {}

    def fit(trainer, module, data, **_):
        schedule = module.configure_optimizers()["lr_scheduler"]["scheduler"]
        seen["compile"] = all(block._compiled_call_impl is not None for block in module.model.blocks)
        seen["optim.total_steps"] = [schedule.lr_lambdas[0](step) for step in (5, 10, 15)]
        seen["trainer.num_nodes"] = trainer.num_nodes
        seen["trainer.strategy"] = trainer.strategy._ddp_kwargs
        raise IgptError("Seen.")

    monkeypatch.setattr(pl.Trainer, "fit", fit)
    changes = (
        "compile=true", "optim.schedule=cosine", "optim.warmup_steps=0", "optim.total_steps=20", "trainer.num_nodes=2",
        "trainer.strategy={_target_:pytorch_lightning.strategies.DDPStrategy,bucket_cap_mb:7}",
    )  # fmt: skip
    assert refused(command, f"run={cut}", *changes) == "Error: Seen."
    assert seen["compile"]
    assert seen["optim.total_steps"] == pytest.approx([0.5 + 0.5 * 2**-0.5, 0.5, 0.5 - 0.5 * 2**-0.5])
    assert seen["trainer.num_nodes"] == 2
    assert seen["trainer.strategy"] == {"bucket_cap_mb": 7}


def test_the_precision_of_products_on_a_gpu_may_change(command, cut, monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", asked.append)
    monkeypatch.setattr("pytorch_lightning.strategies.SingleDeviceStrategy.root_device", torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")  # for environment.json
    monkeypatch.setattr(pl.Trainer, "fit", Mock(side_effect=IgptError("No GPU.")))
    assert refused(command, f"run={cut}", "matmul_precision=highest") == "Error: No GPU."
    assert asked == ["highest"]


def test_trackers_are_chosen_anew(command, cut):
    pytest.importorskip("tensorboard")
    for logger, expected in (("tensorboard", ["tensorboard"]), ("none", []), ("null", [])):
        command("train", f"run={cut}", f"logger={logger}", "callbacks.stop=null")
        assert list(configuration_of(RunDirectory(cut)).logger or {}) == expected
    assert list((cut / "tensorboard").iterdir())


def test_a_run_without_the_keys_of_trackers_and_callbacks(command, tmp_path):
    """It is begun with ~, and run= is understood with pluses before it, too."""
    few = [argument for argument in SMALL if argument != "logger=none"]
    command("train", *few, "~logger", "~callbacks", "trainer.max_steps=1", "hydra.run.dir=run")
    command("train", "++run=run", "trainer.max_steps=2", "logger=none")
    assert [step for step, _, _ in metrics(tmp_path / "run") if step] == ["0", "1"]


def test_the_list_of_what_may_change_is_that_of_the_documentation():
    text = (Path(__file__).parents[2] / "docs" / "architecture.md").read_text()
    section = text.partition("## What may change when a run is resumed")[2].partition("\n## ")[0]
    assert set(section.split("`")[1::2]) >= set(MAY_CHANGE)
    assert not may_change("callbacks.best.monitor")
    assert may_change("callbacks.early_stop.patience")


def test_the_same_command_continues_a_used_folder_and_another_is_refused(command, stopped, tmp_path):
    shutil.copytree(stopped / "cut", tmp_path / "cut")
    before = everything(tmp_path)
    message = refused(command, *FEW, *STOP, "hydra.run.dir=cut", "optim.lr=0.5", "seed=1")
    assert "cut holds a run with other settings: " in message
    assert "optim.lr (0.003 there, 0.5 now)" in message
    assert "seed (0 there, 1 now)" in message
    assert "run=" in message
    assert "run with" in message
    assert everything(tmp_path) == before
    command("train", *FEW, *STOP, "hydra.run.dir=cut")
    assert metrics(tmp_path / "cut") == metrics(stopped / "whole")


def test_a_folder_in_which_nothing_was_trained_takes_other_settings(command, tmp_path):
    with pytest.raises(SystemExit):
        command("train", *FEW, "hydra.run.dir=run", "data.batch_size=4000")
    command("train", *FEW, "hydra.run.dir=run", "trainer.max_steps=1", "tokenizer.size=8")
    assert configuration_of(RunDirectory(tmp_path / "run")).tokenizer.size == 8
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 1


def test_used_folders_of_a_sweep_are_not_credited_to_other_settings(command, tmp_path, capsys):
    few = (*FEW, "trainer.max_steps=1", "trainer.val_check_interval=1", "callbacks=none", "hydra.sweep.dir=s")
    command("train", "-m", *few, "seed=0,1")
    first = everything(tmp_path / "s" / "1")
    with pytest.raises(SystemExit) as caught:
        command("train", "-m", *few, "seed=0,2")
    assert "1 of 3 jobs of the sweep produced no result" in caught.value.code
    assert "2 of 3 jobs produced a result" in capsys.readouterr().out
    assert everything(tmp_path / "s" / "1") == first
    same, old, other = sweep_table(tmp_path / "s")
    assert [row["job"] for row in (same, old, other)] == ["0", "1", "refused/1"]
    assert [row["status"] for row in (same, old, other)] == ["finished", "finished", "refused"]
    assert [row["changed"] for row in (same, old, other)] == ["seed=0", "seed=1", "seed=2"]
    assert "seed (1 there, 2 now)" in other["error"]
    assert same["val/nats_per_token"]
    assert old["val/nats_per_token"]
    assert not other["val/nats_per_token"]
    assert "refused" in command("jobs", "sweep=s")

    (tmp_path / "s" / "1" / "job.json").unlink()  # as if it had been trained by itself
    refused(command, "-m", *few, "seed=0,2")
    assert everything(tmp_path / "s" / "1").keys() == first.keys() - {"job.json"}
    assert [row["job"] for row in sweep_table(tmp_path / "s")] == ["0", "refused/1"]
    command("train", "-m", *few, "seed=0")
    assert not (tmp_path / "s" / "refused").exists()


def sweep_table(folder):
    with open(folder / "sweep.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_folders_named_after_the_time_are_new_ones(command, tmp_path):
    for seed in (0, 1):
        command("train", *FEW, "trainer.max_steps=1", "hydra.run.dir='runs/${now:%Y}'", f"seed={seed}")
    few = (*FEW, "data.batch_size=4000")  # which is refused after the configuration of a job was stored
    for _ in range(2):
        refused(command, "-m", *few, "hydra.sweep.dir='sweeps/${name}_${now:%Y}'", "name=a,b")
    one, two = sorted((tmp_path / "runs").iterdir())
    assert two.name == f"{one.name}_2"
    assert [configuration_of(RunDirectory(run)).seed for run in (one, two)] == [0, 1]
    first, second = sorted((tmp_path / "sweeps").iterdir())
    assert second.name == f"{first.name}_2"
    for sweep in (first, second):  # of which all jobs are in one folder, whatever they are called
        assert [configuration_of(RunDirectory(sweep / job)).name for job in "01"] == ["a", "b"]
        assert (sweep / "sweep.csv").exists()


@pytest.fixture
def another_process():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.communicate(b"\n")


def lock(folder, name="train.lock", **values):
    """Lock a run or a sweep, as another process would."""
    owner = {**dataclasses.asdict(Owner.here()), "since": "2030-01-01 10:00:00", **values}
    (folder / name).write_text(json.dumps(owner))


def test_a_run_that_another_process_trains_is_refused(command, cut, tmp_path, another_process):
    lock(cut, process=another_process.pid, started=start_time(another_process.pid))
    before = everything(tmp_path)
    for arguments in ((f"run={cut}",), (*FEW, *STOP, f"hydra.run.dir={cut}")):
        message = refused(command, *arguments)
        assert f"is in use by process {another_process.pid} on {socket.gethostname()}, since 2030" in message
        assert f"delete {cut / 'train.lock'} if it has died" in message
    lock(cut, host="node7", process=os.getpid(), started="1")
    assert "on node7" in refused(command, f"run={cut}")
    (cut / "train.lock").write_text("")  # it is just being written
    assert "another process" in refused(command, f"run={cut}")
    lock(cut, process=another_process.pid, started=start_time(another_process.pid))
    assert everything(tmp_path) == before


@pytest.mark.parametrize("launcher", ["basic", "slurm"])
def test_a_folder_that_another_process_sweeps_into_is_refused(command, tmp_path, another_process, launcher):
    if launcher == "slurm":
        pytest.importorskip("submitit")
    (tmp_path / "s" / "refused").mkdir(parents=True)
    for name in ("overrides.json", "sweep.csv", "refused/job.json"):
        (tmp_path / "s" / name).write_text("of the first")
    lock(tmp_path / "s", "sweep.lock", process=another_process.pid, started=start_time(another_process.pid))
    before = everything(tmp_path)
    message = refused(command, "-m", *FEW, "seed=0,1", "hydra.sweep.dir=s", f"hydra/launcher={launcher}")
    assert f"{tmp_path / 's'} is in use by process {another_process.pid} on {socket.gethostname()}" in message
    assert f"delete {tmp_path / 's' / 'sweep.lock'} if it has died" in message
    assert everything(tmp_path) == before


def test_a_sweep_holds_its_lock_to_its_end_and_takes_over_that_of_a_dead_one(
    command, tmp_path, monkeypatch, another_process
):
    (tmp_path / "s").mkdir()
    lock(tmp_path / "s", "sweep.lock", process=another_process.pid, started="1")
    owners = []

    def seen(rows, path):
        owners.append(json.loads((tmp_path / "s" / "sweep.lock").read_text())["process"])
        write_table(rows, path)

    monkeypatch.setattr("igpt.sweeps.sweep_results.write_table", seen)
    few = (*FEW, "data.batch_size=4000")
    assert "no job of the sweep produced a result" in refused(command, "-m", *few, "seed=0,1", "hydra.sweep.dir=s")
    assert owners == [os.getpid()]
    assert not (tmp_path / "s" / "sweep.lock").exists()


def test_the_table_of_a_sweep_that_was_stopped_is_in_its_folder_wherever_its_process_ends(
    command, tmp_path, monkeypatch
):
    at_exit = []
    monkeypatch.setattr("atexit.register", at_exit.append)
    monkeypatch.setattr("igpt.commands.train.locked", lambda file: sys.exit(130))
    with pytest.raises(SystemExit):
        command("train", "-m", *FEW, "seed=0,1", "hydra.sweep.dir=s", "hydra.job.chdir=true")
    assert (tmp_path / "s" / "sweep.lock").exists()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (report,) = [end for end in at_exit if getattr(end, "func", None) is write_results_and_unlock]
    (row,) = report()
    assert row["job"] == "0"
    assert RunDirectory(tmp_path / "s" / "0").job()["varied"] == ["seed=0"]
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert (tmp_path / "s" / "sweep.csv").exists()
    assert not (tmp_path / "s" / "sweep.lock").exists()


def test_the_callback_of_a_sweep_is_sent_to_jobs_without_its_lock(tmp_path):
    with initialize_config_module("igpt.conf", version_base="1.3"):
        config = compose("train", [f"hydra.sweep.dir={tmp_path}/s", "logger=none"], return_hydra_config=True)
    callback = SweepTable()
    callback.on_multirun_start(config)
    assert isinstance(pickle.loads(pickle.dumps(callback)), SweepTable)
    assert (tmp_path / "s" / "sweep.lock").exists()
    with pytest.raises(SystemExit):
        callback.on_multirun_end(config)  # without any job
    assert not (tmp_path / "s" / "sweep.lock").exists()


def test_the_lock_of_a_process_that_died_is_taken_over(command, stopped, cut, another_process):
    lock(cut, process=another_process.pid, started="1")  # its number was given to another one since
    command("train", f"run={cut}")
    assert metrics(cut) == metrics(stopped / "whole")
    assert not (cut / "train.lock").exists()


def test_no_lock_stays_behind_an_error_or_a_signal(command, stopped, tmp_path):
    assert not (stopped / "cut" / "train.lock").exists()
    assert not (stopped / "whole" / "train.lock").exists()
    refused(command, *FEW, "hydra.run.dir=run", "data.batch_size=4000")
    assert not (tmp_path / "run" / "train.lock").exists()
    assert Owner.here() == Owner.here()


@pytest.mark.parametrize("name", ["best", "previous"])
def test_resuming_from_an_older_checkpoint_is_refused(command, cut, tmp_path, name):
    shutil.copy(cut / "checkpoints" / "last.ckpt", cut / "checkpoints" / f"{name}.ckpt")
    before = everything(tmp_path)
    file = cut / "checkpoints" / f"{name}.ckpt"
    message = refused(command, f"run={file}")
    assert f"{name}.ckpt is not the last checkpoint of its run; resume the run with run={cut}" in message
    assert f"init_from={file}" in message
    assert everything(tmp_path) == before


def test_the_last_checkpoint_and_a_link_name_the_run(command, stopped, cut, tmp_path):
    (tmp_path / "link").symlink_to(cut)
    command("train", f"run={tmp_path}/link/checkpoints/last.ckpt")
    assert metrics(cut) == metrics(stopped / "whole")


@pytest.mark.parametrize(
    ("overrides", "difference"),
    [
        (("tokenizer.size=8",), "tokenizer=palette tokenizer.size=16, but this configuration chooses tokenizer=pale"),
        (("tokenizer=gray",), "has tokenizer=palette tokenizer.size=16, but this configuration chooses tokenizer=gray"),
        (("order=hilbert",), "has order=raster, but this configuration chooses order=hilbert; leave that choice out"),
    ],
)
def test_another_tokenizer_than_that_of_init_from_is_refused(command, trained, tmp_path, overrides, difference):
    small = [a for a in SMALL if overrides != ("tokenizer=gray",) or not a.startswith("tokenizer.size")]
    assert difference in refused(command, *small, f"init_from={trained}", *overrides)


def test_a_palette_is_not_recorded_for_a_model_of_grays(command, tmp_path):
    gray = [a for a in SMALL if not a.startswith("tokenizer.size")]
    few = ("trainer.max_steps=1", "callbacks=none", "trainer.val_check_interval=1")
    command("train", *gray, *few, "tokenizer=gray", "order=spiral", "hydra.run.dir=gray")
    message = refused(command, *gray, "init_from=gray", "tokenizer=palette", "tokenizer.size=8")
    assert "has tokenizer=gray, but this configuration chooses tokenizer=palette tokenizer.size=8" in message
    others = [a for a in gray if not a.startswith("experiment=")]  # which chooses a palette
    command("train", *others, *few, "trainer=cpu", "init_from=gray", "hydra.run.dir=more")
    assert configuration_of(RunDirectory(tmp_path / "more")).order == "spiral"
