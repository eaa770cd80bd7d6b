"""What W&B knows of a run, its probe, its evaluation and its fine-tuning, read back from the files of offline runs."""

import csv
import errno
import json
import math
import os

import numpy as np
import pytest
from PIL import Image

from conftest import SMALL, run_command
from igpt.run_directory import RunDirectory
from offline_run import read_offline_run

TRACKED = [a for a in SMALL if a != "logger=none"]
STEPS = ("data.num_workers=0", "trainer.val_check_interval=1", "optim.total_steps=5")
DIAGNOSTICS = (
    "callbacks=diagnostics", "callbacks.layer_norms.every_n_steps=1", "callbacks.attention_maps.every_n_steps=2",
)  # fmt: skip
DRY = ("data.num_workers=0", "trainer.max_steps=1", "callbacks=none", "evaluators.likelihood=null")


def parts_of(run):
    """The W&B runs below a run directory, in the order of their beginning."""
    return [read_offline_run(folder) for folder in sorted((run / "wandb").glob("offline-run-*"), key=os.path.getmtime)]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IGPT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        patch.delenv("WANDB_API_KEY", raising=False)
        yield tmp_path_factory.mktemp("tracked")


@pytest.fixture(scope="module")
def tracked(cache):
    """A run with diagnostics that was resumed after three steps of five."""
    chosen = ("sample_every=2", "trainer.max_steps=3", "logger.wandb.notes=seen", "hydra.run.dir=run")
    run_command("train", *TRACKED, *STEPS, *DIAGNOSTICS, *chosen, cwd=cache)
    run_command("train", "run=run", "trainer.max_steps=5", cwd=cache)
    return cache / "run"


@pytest.fixture(scope="module")
def parts(tracked):
    """Its two parts."""
    return parts_of(tracked)


def columns(run):
    """The values in metrics.csv, by column and step."""
    found = {}
    with open(run / "metrics.csv") as file:
        for row in csv.DictReader(file):
            step = int(row.pop("step"))
            for name, value in row.items():
                if value:
                    found.setdefault(name, {})[step] = float(value)
    return found


def test_a_resumed_run_has_one_id_and_keeps_what_a_person_may_have_changed(tracked, parts):
    first, second = (part.init for part in parts)
    assert {first.run_id, second.run_id} == {RunDirectory(tracked).tracking_id()}
    assert first.run_group == second.run_group == "/".join(tracked.parts[-2:])
    assert first.job_type == second.job_type == "train"
    assert (first.display_name, list(first.tags), first.notes) == ("emoji_ar", ["emoji", "nano", "ar"], "seen")
    assert (second.display_name, list(second.tags), second.notes) == ("", [], "")


def test_the_configuration_has_the_composed_values_the_commit_and_the_command(parts):
    for part, steps in zip(parts, (3, 5), strict=True):
        assert part.config["model"]["n_embd"] == 32
        assert part.config["trainer"]["max_steps"] == steps
        assert part.config["data"]["batch_size"] == 16
        assert {"commit", "command"} == set(part.config["igpt"])


def test_w_and_b_has_every_value_of_metrics_csv_at_its_step(tracked, parts):
    for name, values in columns(tracked).items():
        logged = [pair for part in parts for pair in part.values(name)]
        if not name.startswith("test/"):  # measured at the end of each part
            assert {step for step, _ in logged} == set(values), name
            assert [value for _, value in logged] == pytest.approx([values[step] for step, _ in logged]), name
    assert {"speed/mfu", "data/flops", "val/nats_per_token", "train/loss"} <= set(columns(tracked))
    assert {"gradients/block_0", "updates/block_0", "val_class/Flags"} <= set(columns(tracked))
    assert "epoch" not in {name for part in parts for row in part.history for name in row}


def test_a_row_of_training_or_validation_has_the_axes_of_charts(parts):
    for row in parts[0].history:
        if "train/loss" in row or "val/nats_per_token" in row:
            assert {"trainer/global_step", "data/images", "data/flops"} <= set(row)


def test_summaries_have_the_best_value_also_of_the_steps_before_a_resume(tracked, parts):
    for part, stop in zip(parts, (3, 5), strict=True):
        for name in ("val/nats_per_token", "train/loss"):
            best = min(value for step, value in columns(tracked)[name].items() if step < stop)
            assert part.summary[name]["min"] == pytest.approx(best)
            assert part.defined[name].summary.min
            assert part.defined[name].step_metric == "trainer/global_step"
    summary = json.loads((tracked / "summary.json").read_text())
    assert {name: parts[1].summary[name] for name in summary} == summary


def test_images_in_training_have_one_key_for_each_kind_and_the_step_of_their_validation(tracked, parts):
    for kind, number in (("samples", 2), ("completions", 2), ("attention", 2), ("position_loss", 5)):
        logged = [
            (step, part.file({"path": image["filenames"][0]})) for part in parts for step, image in part.values(kind)
        ]
        files = sorted((tracked / kind).glob("step_*.png"))
        assert [f"step_{step + 1:07d}.png" for step, _ in logged] == [file.name for file in files]
        assert len(files) == number
        for (_, image), file in zip(logged, files, strict=True):
            np.testing.assert_array_equal(np.asarray(Image.open(image)), np.asarray(Image.open(file)))


def test_the_figures_of_the_report_are_logged(tracked, parts):
    for name in ("palette", "quantized", "curve", "samples", "completions", "likelihood"):
        ((step, logged),) = parts[1].values(f"figures/{name}")
        assert step == 4
        assert (
            Image.open(parts[1].file({"path": logged["filenames"][0]})).size
            == Image.open(tracked / "figures" / f"{name}.png").size
        )


def test_what_a_run_uses_and_makes_are_artifacts(tracked, parts):
    for part in parts:
        found = {each.type: each for each in part.artifacts}
        names = {kind: each.name for kind, each in found.items()}
        assert part.config["uses"] == {"data": [names["dataset"]], "palette": [names["palette"]], "init_from": None}
        assert names["model"] == f"checkpoint-{RunDirectory(tracked).tracking_id()}"
        files = {file.path for file in found["model"].manifest.contents}
        assert files == {"checkpoints/best.ckpt", "checkpoints/last.ckpt"}


def table_of(part, name):
    """Columns and rows of a logged table."""
    (logged,) = [row[name] for row in part.history if name in row]
    content = json.loads(part.file(logged).read_text())
    return content["columns"], content["data"]


def test_the_table_of_extreme_images_is_a_file_and_in_w_and_b(tracked, parts):
    names, rows = table_of(parts[1], "tables/likelihood")
    with open(tracked / "figures" / "likelihood.csv") as file:
        written = list(csv.DictReader(file))
    assert names == ["picture", "image", "class", "nats_per_token"]
    assert [[str(value) for value in row[1:]] for row in rows] == [list(row.values()) for row in written]
    assert len(rows) == 32
    nats = [row[3] for row in rows]
    assert nats == sorted(nats)

    (artifact,) = [each for each in parts[1].artifacts if "likelihood" in each.name]  # has the table with its images
    files = {part.path: part.local_path for part in artifact.manifest.contents}
    with open(files["tables/likelihood.table.json"]) as file:
        pictures = [row[0]["path"] for row in json.load(file)["data"]]
    shown = np.asarray(Image.open(tracked / "figures" / "likelihood.png"))
    for i, picture in enumerate(pictures):
        y, x = (2 + 66 * k for k in divmod(i, 8))  # each pixel is enlarged to 8x8, with gaps of 2 pixels
        np.testing.assert_array_equal(np.asarray(Image.open(files[picture])), shown[y : y + 64 : 8, x : x + 64 : 8])


def test_a_probe_and_an_evaluation_are_runs_of_their_own_in_the_group_of_the_run(tracked, parts, cache):
    probe = ("probe.penalties=[0.01]", "untrained=false")
    run_command("probe", f"run={tracked}", *probe, cwd=cache)
    run_command("evaluate", f"run={tracked}", "logger=wandb", cwd=cache)
    probed, evaluated = parts_of(tracked)[2:]
    own = {parts[0].init.run_id, probed.init.run_id, evaluated.init.run_id}
    assert len(own) == 3
    assert {part.init.run_group for part in (*parts, probed, evaluated)} == {parts[0].init.run_group}
    assert (probed.init.job_type, evaluated.init.job_type) == ("probe", "evaluate")
    assert (probed.init.display_name, evaluated.init.display_name) == ("probe run", "evaluate run")
    assert list(probed.init.tags) == ["emoji", "nano", "ar"]

    assert probed.config["probe"]["penalties"] == [0.01]
    assert f"probe-{parts[0].init.run_id}" in [each.name for each in probed.artifacts if each.type == "probe"]
    summary = json.loads((tracked / "probe" / "summary.json").read_text())
    assert {name: probed.summary[name.replace(" ", "_")] for name in summary} == summary
    assert probed.defined["probe/trained/test_accuracy"].step_metric == "probe/layer"
    _, rows = table_of(probed, "probe/accuracy_by_layer_table")
    with open(tracked / "probe" / "accuracy.csv") as file:
        written = [
            (int(r["layer"]), "trained", float(r["test_accuracy"]))
            for r in csv.DictReader(file)
            if r["features"] == "trained"
        ]
    assert [tuple(row) for row in rows if row[1] == "trained"] == written
    assert len(written) == 2

    measured = json.loads((tracked / "evaluation" / "test.json").read_text())
    (values,) = [row for row in evaluated.history if "test/nats_per_token" in row]
    assert values["test/nats_per_token"] == measured["test/nats_per_token"]


def test_fine_tuning_is_a_job_type_and_has_a_confusion_matrix(tracked, cache):
    arguments = [a for a in TRACKED if not a.startswith(("experiment", "model", "data.source", "tokenizer"))]
    run_command(
        "train", "experiment=emoji_finetune", *arguments, *DRY, f"init_from={tracked}", "hydra.run.dir=tuned", cwd=cache
    )
    (part,) = parts_of(cache / "tuned")
    assert part.init.job_type == "finetune"
    _, rows = table_of(part, "tables/confusion_matrix_table")
    with open(cache / "tuned" / "figures" / "confusion.csv") as file:
        written = [(row["class"], row["predicted"], int(row["images"])) for row in csv.DictReader(file)]
    assert [tuple(row) for row in rows] == written
    assert (
        sum(n for _, _, n in written)
        == json.loads((cache / "tuned" / "summary.json").read_text())["test/labeled_images"]
    )
    assert any("figures/confusion" in row for row in part.history)


def test_on_a_full_disk_training_is_bitwise_the_same_and_one_line_says_so(tracked, cache, monkeypatch):
    import wandb

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(wandb, "init", full)
    run_command("train", *TRACKED, *STEPS, "sample_every=2", "trainer.max_steps=5", "hydra.run.dir=full", cwd=cache)
    ours, theirs = columns(cache / "full"), columns(tracked)
    for name in ("train/loss", "train/grad_norm", "val/nats_per_token", "data/flops"):
        assert ours[name] == theirs[name]  # all digits
        assert all(math.isfinite(value) for value in ours[name].values())
    lines = [line for line in (cache / "full" / "train.log").read_text().splitlines() if "No space left" in line]
    assert len(lines) == 1
    assert "W&B cannot log this run" in lines[0]
