"""Checkpoint files: no class name is part of the format, other formats are refused, and the last one is read once."""

import shutil
import threading
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

import igpt
from conftest import SMALL
from igpt.checkpoint import FORMAT, KEY, Checkpoint, Description, read_checkpoint, read_last
from igpt.commands.build import check_restorable
from igpt.data import datamodule
from igpt.errors import IgptError
from igpt.objectives import objective, tasks
from igpt.run_directory import RunDirectory
from igpt.tokenizers import TOKENIZERS, Gray, color_palette
from igpt.training.callbacks import early_stop, keep_best

RECIPE = (
    *SMALL, "objective=mlm", "data.num_workers=0", "trainer.val_check_interval=1", "trainer.limit_val_batches=1",
    "sample_every=999", "callbacks=early_stop", "optim.total_steps=4",
)  # fmt: skip


@pytest.fixture
def copy(tmp_path, trained):
    return RunDirectory(shutil.copytree(trained, tmp_path / "copy"))


def content(run, name="last"):
    return torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)


def rename_classes(monkeypatch):
    """As if classes of ours had other names since the checkpoint was written."""
    renamed = {}
    for module, name in (
        (datamodule, "ImageDataModule"), (objective, "Objective"), (tasks, "Masked"), (color_palette, "Palette"),
        (keep_best, "KeepBest"), (early_stop, "EarlyStop"),
    ):  # fmt: skip
        renamed[name] = type(f"Renamed{name}", (getattr(module, name),), {"__module__": "elsewhere"})
        monkeypatch.setattr(module, name, renamed[name])
    monkeypatch.setitem(tasks.TASKS, "mlm", renamed["Masked"])
    monkeypatch.setitem(TOKENIZERS, "palette", renamed["Palette"])


def test_a_run_resumes_bitwise_after_its_classes_were_renamed(command, tmp_path, monkeypatch):
    command("train", *RECIPE, "hydra.run.dir=whole", "trainer.max_steps=4")
    command("train", *RECIPE, "hydra.run.dir=cut", "trainer.max_steps=2")
    rename_classes(monkeypatch)
    loaded = igpt.load(tmp_path / "cut")
    assert type(loaded.task).__name__ == "RenamedMasked"
    assert type(loaded.tokenizer).__name__ == "RenamedPalette"
    command("train", "run=cut", "trainer.max_steps=4")

    whole, cut = content(tmp_path / "whole"), content(tmp_path / "cut")
    torch.testing.assert_close(cut["state_dict"], whole["state_dict"], rtol=0, atol=0)
    torch.testing.assert_close(cut["optimizer_states"], whole["optimizer_states"], rtol=0, atol=0)
    ours = {"best(val/nats_per_token, min)", "early_stop(val/nats_per_token, min)"}
    assert set(cut["callbacks"]) == {*ours, "throughput", "Timer"}  # the last one is Lightning's
    assert cut["callbacks"]["best(val/nats_per_token, min)"] == whole["callbacks"]["best(val/nats_per_token, min)"]
    assert set(cut) == {
        KEY, "state_dict", "optimizer_states", "lr_schedulers", "callbacks", "epoch", "global_step",
        "pytorch-lightning_version", "loss_statistics",
    }  # fmt: skip


def test_another_format_is_one_sentence(command, copy):
    for name in ("best", "last"):
        found = content(copy.path, name)
        found[KEY].update(format=FORMAT + 1, version="7.8")
        torch.save(found, copy.path / "checkpoints" / f"{name}.ckpt")
    for name in ("evaluate", "train"):
        with pytest.raises(SystemExit) as caught:
            command(name, f"run={copy.path}")
        assert f"has checkpoint format {FORMAT + 1}, which igpt 7.8 wrote, but igpt" in caught.value.code


def test_a_checkpoint_of_others_is_one_sentence(tmp_path):
    torch.save({"state_dict": {}, "global_step": 3, "hyper_parameters": {}}, tmp_path / "other.ckpt")
    with pytest.raises(IgptError, match="other.ckpt is no checkpoint of igpt"):
        igpt.load(tmp_path / "other.ckpt")


@pytest.fixture
def reads(monkeypatch):
    """How often each checkpoint was loaded, and how often it was verified."""
    loads, checks = Counter(), Counter()
    load, open_archive = torch.load, zipfile.ZipFile

    def counting_load(file, *arguments, **options):
        loads[str(file)] += 1
        return load(file, *arguments, **options)

    def counting_open(file, *arguments, **options):
        checks[str(file)] += 1
        return open_archive(file, *arguments, **options)

    monkeypatch.setattr(torch, "load", counting_load)
    monkeypatch.setattr(zipfile, "ZipFile", counting_open)
    return loads, checks


def test_a_resumed_run_reads_its_last_checkpoint_once(command, copy, tmp_path, reads):
    tune = ("experiment=emoji_finetune", *SMALL[1:], "callbacks=none", f"init_from={copy.path}", "hydra.run.dir=tuned")
    command("train", *tune, "trainer.max_steps=1")
    for counts in reads:
        counts.clear()
    command("train", "run=tuned", "trainer.max_steps=2")
    last = str(tmp_path / "tuned" / "checkpoints" / "last.ckpt")
    before_training, report = 1, 1  # without a best checkpoint, the report loads the new last one
    for counts in reads:
        assert counts[last] == before_training + report
        assert str(copy.best) not in counts


def test_what_was_taken_from_a_checkpoint_is_not_kept_in_it(copy):
    checkpoint = read_checkpoint(copy.last)
    assert checkpoint.take()["global_step"] == checkpoint.step == 8
    with pytest.raises(AssertionError):
        checkpoint.take()


def test_processes_that_find_a_damaged_checkpoint_agree_on_the_one_before(copy):
    shutil.copy(copy.last, copy.previous)
    copy.last.write_bytes(copy.last.read_bytes()[:-100])
    found: list[Checkpoint | None] = []
    threads = [threading.Thread(target=lambda: found.append(read_last(copy))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [checkpoint.step for checkpoint in found] == [8] * 4
    assert {checkpoint.path for checkpoint in found} == {copy.last}
    assert {p.name for p in copy.last.parent.glob("*.ckpt")} == {"best.ckpt", "damaged.ckpt", "last.ckpt"}


def test_a_checkpoint_that_another_process_is_renaming_is_found(copy, monkeypatch):
    """Between two looks at the folder, the previous checkpoint takes the place of the damaged one."""
    copy.last.replace(copy.previous)
    exists = Path.exists

    def exists_until_renamed(path):
        found = exists(path)
        if path in (copy.last, copy.previous) and exists(copy.previous):
            copy.previous.replace(copy.last)
        return found

    monkeypatch.setattr(Path, "exists", exists_until_renamed)
    assert read_last(copy).step == 8


@pytest.mark.parametrize("value", [np.int64(3), np.str_("cat"), np.zeros(2), Path("file"), {1}])
def test_what_could_not_be_read_again_is_refused_before_it_is_written(tmp_path, value):
    nested = {"plain": [1, 2.0, None, ("a", True)], "tensor": torch.zeros(2), "deep": [{"it": value}]}
    with pytest.raises(IgptError, match=f"of the tokenizer would contain a .*{type(value).__name__}, which"):
        Description({}, {}, nested, [], {}, {}, None)
    nested["deep"].clear()
    assert Description({}, {}, nested, [], {}, {}, None).tokenizer is nested


@dataclass(frozen=True)
class NamedTask(tasks.Autoregressive):
    name: str = "ar"  # which a checkpoint calls its class by


@dataclass(frozen=True)
class DoublingTask(tasks.Autoregressive):
    scale: float = 1.0

    def state(self):
        return {"scale": 2 * self.scale}


class ForgetfulTokenizer(Gray):
    def __init__(self, levels):
        self.levels = levels


AR = tasks.Autoregressive()


@pytest.mark.parametrize(
    ("task", "tokenizer"),
    [(NamedTask(), Gray()), (NamedTask("mine"), Gray()), (DoublingTask(), Gray()), (AR, ForgetfulTokenizer(3))],
)
def test_what_could_not_be_restored_is_refused_before_training(task, tokenizer):
    check_restorable(AR, Gray())
    with pytest.raises(IgptError, match=r"cannot be restored from its state \(.*\); from_state must make"):
        check_restorable(task, tokenizer)
