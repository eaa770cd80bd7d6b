"""igpt-runs: what it finds, which status a run has, filters and order; and the same of W&B."""

import csv
import io
import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
import yaml

from igpt.run_directory import RunDirectory, write_job
from igpt.run_lock import Owner, locked

HEADER = "name,data,model,objective,status,steps,monitor,best,probe,updated,path"
LOSS = "val/nats_per_token"


def make_run(folder, name, losses=(), width=128, data="emoji", summary=None, probe=None, age=0):
    """A run directory as far as igpt-runs looks at it: a validation after each step."""
    run = RunDirectory(folder / name)
    run.config.parent.mkdir(parents=True)
    config = {
        "model": {"n_embd": width, "n_layer": 2, "value_embedding": [0, -1]}, "objective": {"_target_": "x"},
        "monitor": LOSS, "monitor_mode": "min", "trainer": {"max_steps": 9}, "name": "my",
        "optim": {"lr": 0.001, "total_steps": "${trainer.max_steps}"}, "run_dir": "${hydra:runtime.output_dir}",
    }  # fmt: skip
    run.config.write_text(yaml.safe_dump(config))
    chosen = {"data": data, "model": "nano", "objective": "ar", "logger": None}
    run.config.with_name("hydra.yaml").write_text(
        yaml.safe_dump({"hydra": {"help": {"choices": "none"}, "runtime": {"choices": chosen}, "verbose": False}})
    )
    if losses:
        rows = [f"{step},{9 - step},{loss},{step / 100},{step / 10}" for step, loss in enumerate(losses)]
        head = f"step,train/loss,{LOSS},probe/layer_1,speed/mfu"
        run.metrics.write_text("\n".join([head, *rows, "999,1"]))  # the last line is not whole
    if summary is not None:
        run.summary.write_text(json.dumps(summary))
    if probe is not None:
        run.probe.mkdir()
        kinds = {"probe/trained/test_accuracy": probe, "probe/untrained/test_accuracy": 0.99}
        (run.probe / "summary.json").write_text(json.dumps(kinds))
    for file in (run.config, run.metrics, run.summary):
        if file.exists():
            os.utime(file, (2e9 - age, 2e9 - age))
    return run


def finished(best, steps):
    return {f"best/{LOSS}": best, "steps": steps, "test/nats_per_token": best + 0.1}


@pytest.fixture
def outputs(tmp_path):
    folder = tmp_path / "outputs"
    make_run(folder, "emoji/a", (3.0, 1.0), summary=finished(0.5, 2), probe=0.4, age=50)
    make_run(folder, "emoji/b", (3.0, 1.5, 2.0), width=64, age=40)
    make_run(folder, "emoji/c", (), age=30)
    make_run(folder, "cifar/sweep/0", (4.0,), data="cifar10", age=20)
    make_run(folder, "cifar/sweep/1", (2.0, 1.0, 0.9), data="cifar10", summary=finished(1.0, 2), age=10)
    (folder / "other" / ".hydra").mkdir(parents=True)
    (folder / "other" / ".hydra" / "config.yaml").write_text("db: mysql\n")
    return folder


@pytest.fixture
def listed(command, outputs):
    """The rows of the table as CSV."""

    def read(*arguments):
        text = command("runs", *arguments, "format=csv")
        assert text.startswith(HEADER)
        return list(csv.DictReader(io.StringIO(text)))

    return read


def names(rows):
    return [row["name"] for row in rows]


def test_the_table(outputs, command):
    lines = command("runs").splitlines()
    assert lines[0] == "5 of 5 runs in outputs"
    assert lines[1].split() == ["name", "data", "model", "objective", "status", "steps", LOSS, "probe", "age"]
    assert lines[6].split()[:8] == ["emoji/a", "emoji", "nano", "ar", "finished", "2", "0.5", "0.4"]


def test_columns_come_from_the_summary_or_else_from_the_metrics(listed):
    a, b, c, zero, one = listed("sort=name")[2:] + listed("sort=name")[:2]
    assert (a["best"], a["steps"], a["probe"], a["status"]) == ("0.5", "2", "0.4", "finished")
    assert (b["best"], b["steps"], b["probe"], b["status"]) == ("1.5", "3", "0.02", "interrupted")
    assert (c["best"], c["steps"], c["probe"], c["data"]) == ("", "0", "", "emoji")
    assert (zero["data"], zero["model"], zero["objective"]) == ("cifar10", "nano", "ar")
    assert one["status"] == "interrupted"  # it was extended after its summary
    assert a["updated"] == "2033-05-18T03:32:30Z"
    assert a["monitor"] == LOSS


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["sort=name"], ["cifar/sweep/0", "cifar/sweep/1", "emoji/a", "emoji/b", "emoji/c"]),
        ([], ["cifar/sweep/1", "cifar/sweep/0", "emoji/c", "emoji/b", "emoji/a"]),
        (["where=status=finished"], ["emoji/a"]),
        (["where=[data=emoji,steps>0]", "sort=-best"], ["emoji/b", "emoji/a"]),
        ([f'where=[model.n_embd=128,"{LOSS}<2"]', f"sort={LOSS}"], ["emoji/a", "cifar/sweep/1"]),
        (["where=name=cifar*1"], ["cifar/sweep/1"]),
        (["where=optim.total_steps=9", "sort=[data,-steps]"],
         ["cifar/sweep/1", "cifar/sweep/0", "emoji/b", "emoji/a", "emoji/c"]),
        (["where=best=null"], ["emoji/c"]),
        (["where=speed/mfu>=0.2", "sort=best"], ["cifar/sweep/1", "emoji/b"]),
        (["folder=outputs/cifar", "where=name!=sweep/0"], ["sweep/1"]),
    ],
)  # fmt: skip
def test_filters_and_order(listed, arguments, expected):
    assert names(listed(*arguments)) == expected


def test_further_columns(listed):
    (row,) = listed("where=name=emoji/a", "columns=[optim.lr,test/nats_per_token,train/loss]")
    assert list(row)[-4:] == ["path", "optim.lr", "test/nats_per_token", "train/loss"]
    assert list(row.values())[-3:] == ["0.001", "0.6", "8.0"]


def test_a_column_that_is_named_twice_is_there_once(listed, command):
    (row,) = listed("where=name=emoji/a", "columns=[status,optim.lr,optim.lr]")
    assert list(row) == [*HEADER.split(","), "optim.lr"]
    assert (row["path"][-1], row["optim.lr"]) == ("a", "0.001")
    head = command("runs", "columns=[status,path,updated]").splitlines()[1].split()
    assert head == ["name", "data", "model", "objective", "status", "steps", LOSS, "probe", "path", "updated", "age"]


def test_a_run_is_running_while_its_process_lives(outputs, listed):
    run = make_run(outputs, "live")
    with locked(run.lock):
        assert [row["status"] for row in listed("where=name=live")] == ["running"]
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    run.lock.write_text(json.dumps(asdict(replace(Owner.here(), process=ended.pid))))
    assert [row["status"] for row in listed("where=name=live")] == ["interrupted"]


def test_failed_runs_say_why(outputs, command):
    make_run(outputs, "one", (1.0,)).error.write_text("The loss became NaN.\n")
    write_job(make_run(outputs, "two").path, status="failed", error="No memory.", overrides=[])
    write_job(make_run(outputs, "three").path, status="pruned", overrides=[])
    printed = command("runs", "where=status=failed")
    assert "one: The loss became NaN." in printed
    assert "two: No memory." in printed
    assert "2 of 8 runs" in printed
    assert "three" in command("runs", "where=status=pruned")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["where=model.n_emb=3"], r"No run has the key model.n_emb; did you mean model.n_embd\? Known are name, data,"),
        (["sort=-val/nats"], f"No run has the key val/nats; known are name, .* {LOSS}"),
        (["columns=[zzz]"], "No run has the key zzz; known are"),
        (["where=status"], "where has 'status', which is no filter; write KEY=VALUE"),
        (["folder=nowhere"], "folder is nowhere, which is no folder"),
        (["folder=outputs/other"], "There is no run of igpt-train in outputs/other"),
        (["format=html"], "format is html; it must be table or csv"),
        (["wandb=igpt"], "wandb is igpt; it must be the name of a W&B project, ENTITY/PROJECT"),
    ],
)
def test_mistakes_are_one_sentence(outputs, command, arguments, message):
    with pytest.raises(SystemExit, match=message) as caught:
        command("runs", *arguments)
    assert "\n" not in caught.value.code


def test_finished_runs_are_listed_without_reading_their_metrics(outputs, listed, monkeypatch):
    def refuse(path):
        raise AssertionError(path)

    monkeypatch.setattr("igpt.stored_run.read_series", refuse)
    assert [row["best"] for row in listed("where=status=finished")] == ["0.5"]


def test_torch_is_not_imported(outputs):
    code = (
        "import sys, json; sys.argv = ['igpt-runs']\nfrom igpt.commands.runs import main; main()\n"
        "print(json.dumps([m for m in ('torch', 'pytorch_lightning', 'numpy', 'wandb') if m in sys.modules]))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=outputs.parent, capture_output=True, text=True, check=True
    )
    assert json.loads(result.stdout.splitlines()[-1]) == []


class Api:
    """Takes the place of W&B's."""

    def runs(self, path):
        if path != "somebody/igpt":
            raise ValueError(f"Could not find project {path}.")
        config = {
            "model": {"n_layer": 2, "n_embd": 64}, "data": {"source": {"_target_": "igpt.data.sources.EmojiSource"}},
            "objective": {"_target_": "igpt.objectives.tasks.Masked"}, "monitor": LOSS, "monitor_mode": "min",
        }  # fmt: skip
        values = {"trainer/global_step": 9, LOSS: {"min": 1.5}, "probe/layer_1": 0.3, "_timestamp": 2e9}
        yield SimpleNamespace(name="good", state="finished", url="u1", config=config, summary={**values, "steps": 10})
        yield SimpleNamespace(name="gone", state="crashed", url="u2", config=config, summary={**values, LOSS: 1.7})
        yield SimpleNamespace(name="new", state="preempted", url="u3", config=config, summary={"probe/layer_1": "NaN"})
        yield SimpleNamespace(name="probe good", state="finished", url="u4", config={"probe": {}}, summary={})


def test_runs_of_w_and_b(listed, command, monkeypatch):
    monkeypatch.setattr("wandb.Api", Api)
    gone, good, new = listed("wandb=somebody/igpt", "sort=name", "columns=model.n_embd")
    assert list(good.values()) == [
        "good", "EmojiSource", "2 x 64", "Masked", "finished", "10", LOSS, "1.5", "0.3", "2033-05-18T03:33:20Z", "u1",
        "64",
    ]  # fmt: skip
    assert (gone["status"], gone["best"], gone["steps"]) == ("interrupted", "1.7", "10")
    assert (new["status"], new["best"], new["probe"], new["updated"]) == ("interrupted", "", "", "")
    assert names(listed("wandb=somebody/igpt", f"where={LOSS}<1.6")) == ["good"]
    with pytest.raises(SystemExit, match=r"runs of a/b \(Could not find project a/b\); check the name, or log in\.$"):
        command("runs", "wandb=a/b")


def test_a_summary_of_fewer_steps_than_were_trained_does_not_count(command, tmp_path):
    """As while a run is extended: its best value is that of all steps."""
    make_run(tmp_path, "longer", (3.0, 2.0, 1.0), summary=finished(2.0, 2))
    make_run(tmp_path, "whole", (3.0, 2.0), summary=finished(2.0, 2), age=1)
    found = command("runs", f"folder={tmp_path}", "columns=[test/nats_per_token]", "format=csv")
    rows = {row["name"]: row for row in csv.DictReader(io.StringIO(found))}
    assert (rows["longer"]["best"], rows["longer"]["test/nats_per_token"]) == ("1.0", "")
    assert (rows["whole"]["best"], rows["whole"]["test/nats_per_token"]) == ("2.0", "2.1")
