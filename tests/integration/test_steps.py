"""A resumed run follows from its configuration and its step: rates, rows, validations, the best checkpoint."""

import csv
import json
import math
import shutil
import signal

import pytest
import torch

from conftest import SMALL
from igpt.run_directory import RunDirectory

RECIPE = (*SMALL, "data.num_workers=0", "sample_every=999", "trainer.limit_val_batches=1", "save_every=100")


def rows(run):
    """metrics.csv by step, without what depends on the clock."""
    with open(run / "metrics.csv") as file:
        found = {int(row.pop("step")): row for row in csv.DictReader(file)}
    return {s: {k: v for k, v in row.items() if v and not k.startswith("speed/")} for s, row in found.items()}


def steps_with(run, name):
    return [step for step, row in rows(run).items() if name in row]


def checkpoint(run, name="last"):
    return torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def cosine(step, total, warmup, rate):
    if step < warmup:
        return rate * (step + 1) / warmup
    return rate * (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) / 2


def test_an_extended_run_has_the_rows_of_its_parts_and_the_rates_of_its_configurations(command, tmp_path):
    run = tmp_path / "run"
    command(
        "train", *RECIPE, "optim=adam", "optim.warmup_steps=2", "hydra.run.dir=run", "trainer.max_steps=4",
        "trainer.val_check_interval=2", "logger=tensorboard",
    )  # fmt: skip
    first = rows(run)
    changes = ("optim.lr=0.001", "optim.warmup_steps=6", "trainer.val_check_interval=3")
    command("train", "run=run", "trainer.max_steps=8", *changes)

    after = rows(run)
    assert list(after) == list(range(8))
    assert {step: after[step] for step in range(4)} == first
    assert steps_with(run, "val/nats_per_token") == [1, 3, 5, 7]  # the last one is of the last step
    assert steps_with(run, "test/nats_per_token") == [3, 7]
    rates = [cosine(step, 4, 2, 0.003) for step in range(4)] + [cosine(step, 8, 6, 0.001) for step in range(4, 8)]
    assert [float(row["train/lr"]) for row in after.values()] == pytest.approx(rates)
    assert tensorboard_steps(run, "train/nats_per_token") == list(range(8))
    assert tensorboard_steps(run, "val/nats_per_token") == [1, 3, 5, 7]


def test_steps_after_the_last_checkpoint_of_a_run_that_failed_have_one_row(command, tmp_path):
    run = tmp_path / "run"
    fail = ("+callbacks.fail._target_=recorder.FailAt", "+callbacks.fail.step=6", "save_every=2")
    steps = ("trainer.max_steps=8", "callbacks=none", "logger=tensorboard")
    with pytest.raises(SystemExit):
        command("train", *RECIPE, *steps, *fail, "hydra.run.dir=run")
    assert checkpoint(run)["global_step"] == 4
    assert list(rows(run)) == list(range(5))  # the last one is of a step that has to be repeated
    command("train", "run=run", "~callbacks.fail")
    assert list(rows(run)) == list(range(8))
    assert tensorboard_steps(run, "train/nats_per_token") == list(range(8))


def tensorboard_steps(run, name):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return [event.step for event in events.Scalars(name)]


def test_a_resumed_run_may_cut_its_batches_in_another_way(command, tmp_path):
    recipe = (
        *RECIPE, "data/augment=flip", "callbacks=none", "trainer.val_check_interval=3", "optim.total_steps=8",
        "+callbacks.record._target_=recorder.RecordBatches", "+callbacks.record.folder=${run_dir}/seen",
    )  # fmt: skip
    command("train", *recipe, "hydra.run.dir=whole", "trainer.max_steps=8", "data.device_batch_size=8")
    command("train", *recipe, "hydra.run.dir=cut", "trainer.max_steps=5", "data.device_batch_size=8")
    command("train", "run=cut", "trainer.max_steps=8", "data.device_batch_size=2")

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert samples_by_step(cut) == samples_by_step(whole)
    assert steps_with(whole, "val/nats_per_token") == [2, 5, 7]
    assert steps_with(cut, "val/nats_per_token") == [2, 4, 5, 7]  # 4 was its last step at first
    for name in ("train/nats_per_token", "train/grad_norm"):
        ours, theirs = ([float(row[name]) for row in rows(run).values()] for run in (cut, whole))
        assert len(ours) == 8
        assert ours == pytest.approx(theirs, rel=1e-4)


def samples_by_step(run):
    seen = {}
    for line in (run / "seen" / "0.jsonl").read_text().splitlines():
        batch = json.loads(line)
        seen.setdefault(batch["step"], []).extend(zip(batch["indices"], batch["epochs"], strict=True))
    return {step: sorted(samples) for step, samples in seen.items()}


VALIDATES_ALWAYS = (
    *RECIPE, "trainer.max_steps=8", "trainer.val_check_interval=1", "sample_every=2", "callbacks=online_probe",
    "callbacks.online_probe.every_n_steps=3", "callbacks.online_probe.n_train=40",
    "callbacks.online_probe.n_validation=40", "+callbacks.stop._target_=igpt.training.callbacks.early_stop.EarlyStop",
    "+callbacks.stop.monitor=${monitor}", "+callbacks.stop.mode=${monitor_mode}", "+callbacks.stop.patience=9",
)  # fmt: skip


@pytest.fixture(scope="module")
def validated(tmp_path_factory):
    """An uninterrupted run with a validation after every step."""
    from conftest import run_command

    folder = tmp_path_factory.mktemp("validated")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IGPT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        run_command("train", *VALIDATES_ALWAYS, "hydra.run.dir=run", cwd=folder)
    return folder / "run"


@pytest.mark.parametrize("moment", ["step", "validation"])
def test_a_validation_after_every_step_delays_no_stop_and_is_neither_missed_nor_repeated(
    command, tmp_path, validated, moment
):
    run = tmp_path / "run"
    send = (
        "+callbacks.send._target_=recorder.SendSignal", f"+callbacks.send.number={int(signal.SIGTERM)}",
        "+callbacks.send.step=5", f"+callbacks.send.in_validation={moment == 'validation'}",
    )  # fmt: skip
    with pytest.raises(SystemExit) as caught:
        command("train", *VALIDATES_ALWAYS, "hydra.run.dir=run", *send)
    assert caught.value.code == 130
    assert checkpoint(run)["global_step"] == 5
    assert list(rows(run)) == list(range(5))
    command("train", "run=run")

    assert rows(run) == rows(validated)
    assert len(steps_with(run, "val/nats_per_token")) == 8
    assert steps_with(run, "probe/layer_0") == [2, 5, 7]
    assert images(run) == images(validated)
    (mine, theirs) = (checkpoint(folder, "best") for folder in (run, validated))
    assert mine["global_step"] == theirs["global_step"]
    torch.testing.assert_close(mine["state_dict"], theirs["state_dict"], rtol=0, atol=0)
    (mine, theirs) = (checkpoint(folder)["callbacks"] for folder in (run, validated))
    progress = [key for key in theirs if key.startswith(("best", "early_stop"))]
    assert len(progress) == 2
    torch.testing.assert_close({k: mine[k] for k in progress}, {k: theirs[k] for k in progress}, rtol=0, atol=0)


def images(run):
    return contents(run / "samples") | contents(run / "completions")


def test_a_run_saves_at_steps_that_are_validated(command, tmp_path):
    command(
        "train", *RECIPE, "trainer.max_steps=3", "trainer.val_check_interval=1", "save_every=1", "callbacks=none",
        "hydra.run.dir=run",
    )  # fmt: skip
    assert set(contents(tmp_path / "run" / "checkpoints")) == {"last.ckpt", "previous.ckpt"}
    assert [checkpoint(tmp_path / "run", name)["global_step"] for name in ("previous", "last")] == [2, 3]


def test_the_last_step_is_validated_once_and_may_be_the_best(command, tmp_path):
    """With micro-batches, and where the number of steps is a multiple of the interval or not."""
    recipe = (*RECIPE, "optim.schedule=linear", "trainer.val_check_interval=3", "data.device_batch_size=4")
    for steps, validated in ((7, [2, 5, 6]), (6, [2, 5])):
        command("train", *recipe, f"trainer.max_steps={steps}", f"hydra.run.dir={steps}")
        run = tmp_path / str(steps)
        assert steps_with(run, "val/nats_per_token") == validated
        assert checkpoint(run, "best")["global_step"] == steps
        assert json.loads((run / "summary.json").read_text())["best_checkpoint"] == "checkpoints/best.ckpt"


def test_a_run_without_validations_has_no_best_value(command, tmp_path):
    command(
        "train", *RECIPE, "trainer.max_steps=2", "trainer.limit_val_batches=0", "callbacks=none", "hydra.run.dir=run"
    )  # fmt: skip
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["best/val/nats_per_token"] is None
    assert "1 of 1 runs" in command("runs", "folder=.")


# The loss falls in these steps, so the best checkpoint by "max" is the first one that was validated.
FALLING = (
    *RECIPE, "optim.schedule=constant", "optim.warmup_steps=0", "trainer.val_check_interval=2",
    "monitor=val/bits_per_token", "monitor_mode=max",
)  # fmt: skip


@pytest.fixture(scope="module")
def falling(tmp_path_factory):
    """A run of four steps whose best checkpoint is that of step 2."""
    from conftest import run_command

    folder = tmp_path_factory.mktemp("falling")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IGPT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        run_command("train", *FALLING, "trainer.max_steps=4", "hydra.run.dir=run", cwd=folder)
    return folder / "run"


@pytest.mark.parametrize("how", ["copied", "linked"])
def test_a_run_that_was_moved_keeps_its_best_checkpoint(command, tmp_path, falling, how):
    shutil.copytree(falling, tmp_path / "copied")
    (tmp_path / "linked").symlink_to("copied")
    run = tmp_path / how
    best = (run / "checkpoints" / "best.ckpt").read_bytes()
    command("train", f"run={how}", "trainer.max_steps=8")
    assert steps_with(run, "val/bits_per_token") == [1, 3, 5, 7]
    assert (run / "checkpoints" / "best.ckpt").read_bytes() == best
    assert checkpoint(run, "best")["global_step"] == 2
    assert json.loads((run / "summary.json").read_text())["best_checkpoint"] == "checkpoints/best.ckpt"


def test_a_missing_best_checkpoint_is_reported(command, tmp_path, falling):
    run = tmp_path / "copy"
    shutil.copytree(falling, run)
    (run / "checkpoints" / "best.ckpt").unlink()
    command("train", "run=copy", "trainer.max_steps=6")
    assert f"{run}/checkpoints/best.ckpt, of step 2, is missing" in (run / "train.log").read_text()
    assert checkpoint(run, "best")["global_step"] == 6


def test_a_best_checkpoint_of_steps_that_are_trained_again_does_not_count(command, tmp_path, falling):
    """As after a kill between the best checkpoint and the last one, resumed with another rate."""
    run = tmp_path / "copy"
    shutil.copytree(falling, run)
    shutil.copy(run / "checkpoints" / "last.ckpt", run / "checkpoints" / "best.ckpt")
    command("train", "run=copy", "trainer.max_steps=6", "optim.lr=0.001")
    assert checkpoint(run, "best")["global_step"] == 6


def test_a_run_that_stopped_early_is_finished_unless_more_is_asked_for(command, tmp_path):
    run = tmp_path / "run"
    early = ("callbacks=early_stop", "callbacks.early_stop.patience=1", "trainer.max_steps=12", "hydra.run.dir=run")
    command("train", *FALLING, *early)
    assert checkpoint(run)["global_step"] == 4  # the second validation was no better than the first
    stopped, saved = rows(run), contents(run / "checkpoints")
    assert list(stopped) == [0, 1, 2, 3]

    command("train", "run=run")
    assert rows(run) == stopped
    assert contents(run / "checkpoints") == saved
    assert "This run stopped early at step 4" in (run / "train.log").read_text()

    command("train", "run=run", "callbacks.early_stop.patience=3")  # two validations are left of it
    assert checkpoint(run)["global_step"] == 8
    assert list(rows(run)) == list(range(8))
    assert {step: rows(run)[step] for step in stopped} == stopped

    command("train", "run=run", "callbacks.early_stop.patience=1", "trainer.max_steps=14")
    assert checkpoint(run)["global_step"] == 10  # the next validation decides
    assert checkpoint(run, "best")["global_step"] == 2


@pytest.fixture
def copy(tmp_path, trained):
    shutil.copytree(trained, tmp_path / "copy")
    return RunDirectory(tmp_path / "copy")


def flip_a_bit_of_a_weight(checkpoint):
    """In the file, in the middle of the largest tensor."""
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    weight = max(state.values(), key=torch.Tensor.numel)
    content = bytearray(checkpoint.read_bytes())
    where = content.find(weight.numpy().tobytes())
    assert where > 0
    content[where + weight.nbytes // 2] ^= 1
    checkpoint.write_bytes(content)


@pytest.mark.parametrize("arguments", [("evaluate",), ("sample",), ("train", "data=emoji", "init_from=")])
def test_one_flipped_bit_of_a_checkpoint_is_an_error(command, copy, arguments):
    flip_a_bit_of_a_weight(copy.best)
    name, *overrides = arguments
    run = [f"init_from={copy.path}", *SMALL] if overrides else [f"run={copy.path}"]
    with pytest.raises(SystemExit) as caught:
        command(name, *run)
    assert "best.ckpt is not a checkpoint of igpt that can be read (its content does not" in caught.value.code


def test_one_flipped_bit_of_the_last_checkpoint_goes_back_to_the_one_before(command, copy):
    shutil.copy(copy.last, copy.previous)
    flip_a_bit_of_a_weight(copy.last)
    command("train", f"run={copy.path}", "trainer.max_steps=9")
    assert torch.load(copy.last, weights_only=True)["global_step"] == 9
    assert (copy.last.parent / "damaged.ckpt").exists()


def test_part_files_of_a_killed_save_are_cleared(command, copy):
    parts = [copy.last.with_name(name) for name in (".new.ckpt", "..new-0123abcd.ckpt", ".best-0123abcd.ckpt")]
    for part in parts:
        part.write_bytes(b"half of a checkpoint")
    command("train", f"run={copy.path}")
    assert not any(part.exists() for part in parts)
    assert {path.name for path in copy.last.parent.iterdir()} == {"last.ckpt", "best.ckpt"}
