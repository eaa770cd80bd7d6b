"""Artifacts, from the run that makes them to the commands that use them, with a server on this machine."""

import json
import logging

import pytest
import torch
import wandb

import igpt
from conftest import SMALL, run_command
from igpt.commands.open_run import data_of_run
from igpt.data.packed.layout import MANIFEST
from igpt.errors import IgptError
from igpt.metrics_file import read_rows
from igpt.run_directory import run_of
from igpt.training.loggers.wandb_artifacts import artifact_of
from tracking_server import w_and_b_server

FEW = (
    *(a for a in SMALL if a != "logger=none"), "trainer.max_steps=2", "trainer.val_check_interval=1", "sample_every=99",
)  # fmt: skip


@pytest.fixture(scope="module")
def cloud(tmp_path_factory):
    """A server, and a folder with the run `first`, whose best checkpoint was uploaded to it."""
    folder = tmp_path_factory.mktemp("cloud")
    with pytest.MonkeyPatch.context() as patch, w_and_b_server() as server:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            patch.delenv(name, raising=False)
        patch.setenv("IGPT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        patch.setenv("WANDB_BASE_URL", server.url)
        patch.setenv("WANDB_API_KEY", "x" * 40)
        patch.setenv("WANDB_ERROR_REPORTING", "false")
        wandb.teardown()
        run_command(
            "train", *FEW, "hydra.run.dir=first", "logger.wandb.artifacts=[best]", "logger.wandb.artifact_days=30",
            cwd=folder,
        )  # fmt: skip
        yield server, folder
        wandb.teardown()


@pytest.fixture(autouse=True)
def _key(cloud, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)


def id_of(run):
    return (run / "tracking_id.txt").read_text().strip()


def name_of(folder):
    return f"wandb:somebody/igpt/checkpoint-{id_of(folder / 'first')}:best"


def test_a_run_uses_data_and_palette_and_makes_a_checkpoint(cloud):
    server, folder = cloud
    first = folder / "first"
    (data,) = server.artifacts.of_type("dataset")
    (palette,) = server.artifacts.of_type("palette")
    (model,) = server.artifacts.of_type("model")
    assert data.used_by >= {id_of(first)}
    assert palette.used_by >= {id_of(first)}
    assert (model.made_by, model.used_by & {id_of(first)}) == (id_of(first), set())
    assert (model.aliases, model.seconds, data.seconds) == ({"latest", "best"}, 30 * 24 * 3600, None)
    assert model.metadata["steps"] == {"best": 2, "last": 2}


def test_packed_data_are_a_reference_with_sizes_and_checksums(cloud, tmp_path_factory):
    server, _ = cloud
    (data,) = server.artifacts.of_type("dataset")
    packed = tmp_path_factory.getbasetemp() / "cache" / "packed" / data.name
    expected = json.loads((packed / MANIFEST).read_text())["files"]
    entries = server.artifacts.manifest(data)
    assert {name for name, entry in entries.items() if "ref" not in entry} == {MANIFEST}
    assert {name: (entries[name]["size"], entries[name]["digest"]) for name in expected} == {
        name: (file["bytes"], file["sha256"]) for name, file in expected.items()
    }
    assert "/" + str(packed) not in json.dumps(entries)
    uploaded = [content for path, content in server.artifacts.content.items() if f"/{data.id}/" in path]
    assert sum(map(len, uploaded)) < (packed / "train.images.npy").stat().st_size / 10


def test_only_the_checkpoint_that_was_asked_for_is_uploaded(cloud):
    server, folder = cloud
    (model,) = server.artifacts.of_type("model")
    entries = server.artifacts.manifest(model)
    contained = {name for name, entry in entries.items() if "ref" not in entry}
    assert {"checkpoints/best.ckpt", "palette.npz", ".hydra/config.yaml", "summary.json", "data.jsonl.gz"} <= contained
    assert entries["checkpoints/last.ckpt"]["size"] == (folder / "first/checkpoints/last.ckpt").stat().st_size
    assert "ref" in entries["checkpoints/last.ckpt"]


def test_an_artifact_is_a_run(cloud, command, tmp_path, monkeypatch):
    server, folder = cloud
    name, first = name_of(folder), folder / "first"
    checkpoint = f"checkpoint-{id_of(first)}"
    monkeypatch.setenv("IGPT_CACHE", str(tmp_path / "cache"))
    loaded, there = igpt.load(name, device="cpu"), igpt.load(first, device="cpu")
    assert loaded.loaded_from == tmp_path / "cache/wandb/somebody/igpt" / checkpoint / "v0/checkpoints/best.ckpt"
    assert all(map(torch.equal, loaded.model.state_dict().values(), there.model.state_dict().values()))
    printed = command("evaluate", f"run={name}")
    assert f"{json.loads((first / 'summary.json').read_text())['test/nats_per_token']:.4f}" in printed
    assert f"outputs/somebody/igpt/{checkpoint}/best/evaluation" in printed
    command("sample", f"run={name}", "n=1", "completions=1", "n_images=1")
    command("export", f"run={name}", "output=folder", "push_to=wandb:somebody/igpt/exported")
    card = (tmp_path / "folder" / "README.md").read_text()
    assert "igpt-train experiment=emoji_ar" in card
    exported = igpt.load("wandb:somebody/igpt/exported", device="cpu")
    assert exported.tokenizer.fingerprint == loaded.tokenizer.fingerprint
    made = server.artifacts.named("exported")
    assert (made.type, server.runs[made.made_by].settings["jobType"]) == ("model", "export")
    assert made.made_by in server.artifacts.named(checkpoint).used_by


def test_training_and_probing_record_the_model_that_they_use(cloud, command, tmp_path):
    server, folder = cloud
    name = name_of(folder)
    model = server.artifacts.named(name.rpartition("/")[2])
    assert artifact_of(str(folder / "first")) == f"{model.name}:latest"  # as if its name were given
    command("train", *FEW, f"init_from={name}", "objective=classify", "hydra.run.dir=tuned", "callbacks=none")
    assert id_of(tmp_path / "tuned") in model.used_by
    config = json.loads(server.runs[id_of(tmp_path / "tuned")].settings["config"])
    assert config["uses"]["value"]["init_from"] == name
    command("probe", f"run={name}", "untrained=false", "probe.penalties=[0.1]")
    (probe,) = server.artifacts.of_type("probe")
    assert probe.made_by in model.used_by
    assert set(server.artifacts.manifest(probe)) == {"accuracy.csv", "summary.json"}


def test_a_version_is_downloaded_once_and_stays_usable_without_the_server(cloud, tmp_path, monkeypatch, caplog):
    server, folder = cloud
    monkeypatch.setenv("IGPT_CACHE", str(tmp_path))
    name = name_of(folder)
    igpt.load(name, device="cpu")
    stored = dict(server.artifacts.content)
    (model,) = (each for each in server.artifacts.versions if each.name in name)
    try:
        server.artifacts.content = {path: text for path, text in stored.items() if path.endswith("/manifest")}
        igpt.load(name, device="cpu")
        model.aliases.discard("best")  # as if W&B could not say which version it is
        with caplog.at_level(logging.WARNING):
            igpt.load(name, device="cpu")
    finally:
        server.artifacts.content = stored
        model.aliases.add("best")
    assert "The copy of its version v0 that is here is used." in caplog.text


def test_a_broken_upload_is_a_warning_and_training_goes_on(cloud, command, tmp_path):
    server, folder = cloud
    stored, server.artifacts.versions = server.artifacts.versions, []
    server.artifacts.refuses = True
    try:
        command("train", *FEW, "hydra.run.dir=broken", "callbacks=none", "logger.wandb.artifacts=[last]")
    finally:
        server.artifacts.versions, server.artifacts.refuses = stored, False
    said = (tmp_path / "broken" / "train.log").read_text()
    for content in ("data, palette and model that this run uses", "the checkpoints of this run"):
        assert said.count(f"W&B did not take {content} as artifacts (") == 1
    assert "Traceback" not in said
    assert server.runs[id_of(tmp_path / "broken")].exit_codes == [0]
    losses = [
        [row["train/loss"] for row in read_rows(run / "metrics.csv")] for run in (folder / "first", tmp_path / "broken")
    ]
    assert losses[0] == losses[1]


def test_a_configuration_from_w_and_b_runs_no_other_classes(cloud, tmp_path, monkeypatch):
    monkeypatch.setenv("IGPT_CACHE", str(tmp_path))
    loaded = igpt.load(name_of(cloud[1]), device="cpu")
    config = run_of(loaded.loaded_from).config
    assert data_of_run(name_of(cloud[1]), loaded).cache_dir == tmp_path
    config.write_text(config.read_text().replace("igpt.data.sources.EmojiSource", "subprocess.call"))
    with pytest.raises(IgptError, match="names subprocess.call, which is not run since it came from W&B"):
        data_of_run(name_of(cloud[1]), loaded)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wandb:igpt/run", "wandb:igpt/run is no artifact of W&B; write wandb:ENTITY/PROJECT/NAME:ALIAS"),
        ("wandb:a/b/../c", "is no artifact of W&B"),
        ("wandb:somebody/igpt/nothing:best", r"W&B did not serve wandb:somebody/igpt/nothing:best \(.*not found"),
    ],
)
def test_a_name_that_is_none(name, message):
    with pytest.raises(IgptError, match=message):
        igpt.load(name)


def test_without_key(monkeypatch, tmp_path):
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY")
    with pytest.raises(IgptError, match=r"did not serve wandb:a/b/c \(no API key is set"):
        igpt.load("wandb:a/b/c")


def test_an_artifact_is_not_resumed(command):
    with pytest.raises(SystemExit, match="There is no run at wandb:a/b/c:best to resume"):
        command("train", "run=wandb:a/b/c:best")
