"""igpt's own exported folders: every model comes back bitwise, and commands take one as run=."""

import json
import shutil
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import igpt
from conftest import SMALL, random_weights
from igpt.checkpoint import Description
from igpt.configuration.schema.command_schemas import EXPORT_FORMATS
from igpt.convert import igpt_folder
from igpt.convert.model_card import model_card
from igpt.convert.stored_model import StoredModel
from igpt.convert.write_folder import FORMATS, write_folder
from igpt.errors import IgptError
from igpt.model.config import TransformerConfig
from igpt.objectives.tasks import Autoregressive, Classification, Masked, task_state
from igpt.tokenizers import RGB, Gray, Palette, tokenizer_state, with_order

PALETTE = Palette(255 * np.random.default_rng(0).random((11, 3)), {"psnr_db": 20.5})
CLASSES = ["cat", "dog"]


def stored_model(path, tokenizer=PALETTE, task=Autoregressive()):  # noqa: B008, it is immutable
    shape = TransformerConfig(
        n_layer=2, n_head=2, n_embd=16, vocab_size=tokenizer.vocab_size, n_positions=tokenizer.n_tokens(4),
        causal=task.causal,
    )  # fmt: skip
    weights = {f"model.{name}": weight for name, weight in random_weights(shape).state_dict().items()}
    if isinstance(task, Classification):
        weights["head.weight"] = torch.randn(2, 16)
    data = {"source": "nowhere"}
    described = Description(
        asdict(shape), task_state(task), tokenizer_state(tokenizer), CLASSES, data, {"seed": 3}, "abc"
    )
    return StoredModel(path / "best.ckpt", described, weights)


@pytest.mark.parametrize(
    ("tokenizer", "task"),
    [
        (PALETTE, Autoregressive()),
        (PALETTE, Masked(ratio=0.3, max_ratio=0.9, seed=5)),
        (with_order(PALETTE, "hilbert"), Autoregressive()),
        (with_order(RGB(), "random", 4), Autoregressive()),
        (Gray(), Masked()),
        (with_order(PALETTE, "spiral"), Classification(Masked(bert=True), votes=3)),
    ],
    ids=repr,
)
def test_every_model_comes_back_bitwise(tmp_path, tokenizer, task):
    stored = stored_model(tmp_path, tokenizer, task)
    write_folder(stored, tmp_path / "out", "igpt", "a card")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"igpt.json", "model.safetensors", "README.md"}
    back = igpt_folder.read(tmp_path / "out")
    assert set(back.weights) == set(stored.weights)
    assert all(torch.equal(back.weights[name], weight) for name, weight in stored.weights.items())
    loaded = igpt.load(tmp_path / "out", device="cpu")
    assert loaded.task == (task.pretraining if isinstance(task, Classification) else task)
    assert loaded.tokenizer.fingerprint == tokenizer.fingerprint
    assert loaded.trained_on == {"source": "nowhere"}
    assert loaded.classes == (tuple(CLASSES) if isinstance(task, Classification) else ())
    assert all(
        torch.equal(weight, stored.weights[f"model.{name}"]) for name, weight in loaded.model.state_dict().items()
    )


def test_an_output_that_is_not_empty_is_refused_and_a_failed_export_leaves_nothing(tmp_path):
    (tmp_path / "out").mkdir()
    masked = stored_model(tmp_path, task=Masked())
    with pytest.raises(IgptError, match="has a masked model"):
        write_folder(masked, tmp_path / "out", "huggingface", "a card")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert not list((tmp_path / "out").iterdir())
    write_folder(masked, tmp_path / "out", "igpt", "a card")  # into an empty folder
    with pytest.raises(IgptError, match="out exists already; choose another output"):
        write_folder(masked, tmp_path / "out", "igpt", "a card")
    assert igpt.load(tmp_path / "out", device="cpu").task == Masked()


def test_formats_on_the_command_line_are_those_that_can_be_written():
    assert tuple(FORMATS) == EXPORT_FORMATS


@pytest.fixture
def folder(tmp_path):
    write_folder(stored_model(tmp_path), tmp_path / "out", "igpt", "a card")
    return tmp_path / "out"


def refusal(folder):
    with pytest.raises(IgptError) as caught:
        igpt.load(folder)
    return str(caught.value)


def test_damaged_folders(folder):
    description = folder / "igpt.json"
    content = json.loads(description.read_text())
    description.write_text(json.dumps({**content, "format": 99}))
    assert "has checkpoint format 99" in refusal(folder)
    description.write_text(json.dumps({"format": content["format"]}))
    assert "igpt.json lacks model, task, tokenizer, ... (7)" in refusal(folder)
    for field, value, reason in (
        ("model", {**content["model"], "depth": 3}, "describes no model"),
        ("task", {}, "describes no model"),
        ("tokenizer", {"name": "palette"}, "describes no model"),
        ("tokenizer", {"name": "rgb"}, "has a tokenizer of 256 tokens and a model of 11"),
    ):
        description.write_text(json.dumps({**content, field: value}))
        assert reason in refusal(folder)
    description.write_text(json.dumps(content))

    weights = load_file(folder / "model.safetensors")
    some = {name: weight for name, weight in weights.items() if name != "description.tokenizer.centroids"}
    save_file(some, folder / "model.safetensors")
    assert "lacks the tensor description.tokenizer.centroids" in refusal(folder)
    save_file({**weights, "model.norm.gain": torch.ones(17)}, folder / "model.safetensors")
    assert "has model.norm.gain with shape (17,) instead of (16,)" in refusal(folder)
    save_file({**weights, "more": torch.ones(17)}, folder / "model.safetensors")
    assert "has tensors that do not belong to this model: more" in refusal(folder)


@pytest.mark.parametrize(("step", "said"), [(4, "Step 4 of 8"), (8, "8 steps"), (None, "8 steps")])
def test_the_card_names_the_step_of_the_weights(tmp_path, step, said):
    stored = replace(stored_model(tmp_path), step=step)
    stored.description.configuration.update(trainer={"max_steps": 8}, data={"batch_size": 2})
    write_folder(stored, tmp_path / "out", "igpt", "a card")
    for model in (stored, igpt_folder.read(tmp_path / "out")):
        assert f"- {said}, 2 images per step, seed 3" in model_card(model, "x", "igpt")


def test_commands_take_an_exported_folder(command, trained, tmp_path):
    """Each format, in place of a run directory, gives what the run gives."""
    for name in EXPORT_FORMATS:
        command("export", f"run={trained}", f"output={name}", f"format={name}")
        data = ("data=emoji", "data.source.resolution=8", "data.eval_batch_size=512")
        printed = command("evaluate", f"run={name}", *data)
        assert f"Results are in {name}/evaluation" in printed
        measured = json.loads((tmp_path / name / "evaluation" / "emoji_test.json").read_text())
        expected = json.loads((trained / "summary.json").read_text())
        assert measured["test/nats_per_token"] == expected["test/nats_per_token"]
        assert f"Results are in {name}/generated" in command("sample", f"run={name}", "n=2", "completions=0")
        with pytest.raises(SystemExit, match=f"{name} is a model without data; name some"):
            command("evaluate", f"run={name}")
    np.testing.assert_array_equal(igpt.load(tmp_path / "igpt").sample(2), igpt.load(trained).sample(2))


@pytest.mark.parametrize(("name", "dtype"), [("igpt", torch.float16), ("huggingface", torch.bfloat16)])
def test_weights_are_rounded_and_the_card_gives_what_they_measure(command, trained, tmp_path, name, dtype):
    options = (f"dtype={str(dtype).removeprefix('torch.')}", "evaluate=true", "license=apache-2.0")
    command("export", f"run={trained}", "output=small", f"format={name}", *options)
    for weight in load_file(tmp_path / "small" / "model.safetensors").values():
        assert weight.dtype in (dtype, torch.float32)  # float32: the palette
    whole, small = (igpt.load(path, device="cpu").model.state_dict() for path in (trained, tmp_path / "small"))
    assert all(torch.equal(weight, whole[key].to(dtype).float()) for key, weight in small.items())
    command("evaluate", "run=small", "data=emoji", "data.source.resolution=8", "data.eval_batch_size=512")
    measured = json.loads((tmp_path / "small" / "evaluation" / "emoji_test.json").read_text())
    unrounded = json.loads((trained / "summary.json").read_text())
    assert measured["test/nats_per_token"] != unrounded["test/nats_per_token"]
    card = (tmp_path / "small" / "README.md").read_text()
    assert f"| {measured['test/nats_per_token']:.4f} | {measured['test/standard_error']:.4f} |" in card
    assert "\nlicense: apache-2.0\n---" in card
    assert f"The weights are stored in {options[0][6:]}." in card
    if name == "igpt":  # results stay with the model, also when it is exported again
        command("export", "run=small", "output=again", "format=igpt")
        assert (tmp_path / "again" / "igpt.json").read_text() == (tmp_path / "small" / "igpt.json").read_text()
        assert json.loads((tmp_path / "again" / "igpt.json").read_text())["results"] == measured


def test_results_of_a_run_that_is_being_extended_are_not_exported(command, trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    summary = json.loads((run / "summary.json").read_text())
    for steps, expected in ((summary["steps"], summary), (1, {})):
        (run / "summary.json").write_text(json.dumps({**summary, "steps": steps}))
        command("export", "run=run", f"output=exported{steps}", "format=igpt")
        assert json.loads((tmp_path / f"exported{steps}" / "igpt.json").read_text())["results"] == expected


def test_no_path_of_this_machine_is_exported(command, trained, tmp_path):
    command("export", f"run={trained}", "output=out", "format=igpt")
    content = json.loads((tmp_path / "out" / "igpt.json").read_text())
    assert content["configuration"]["run_dir"] is None
    assert content["configuration"]["callbacks"]["best"]["path"] is None
    assert content["configuration"]["model"]["n_embd"] == 32
    assert '"/' not in json.dumps(content)


def test_training_starts_from_an_exported_folder(command, trained, tmp_path):
    command("export", f"run={trained}", "output=start")
    unchanged = ("optim.lr=1e-30", "optim.matrix_lr=1e-30", "trainer.max_steps=1")  # updates are below rounding
    command("train", *SMALL, *unchanged, "sample_every=null", "init_from=start", "hydra.run.dir=tuned")
    start, tuned = (igpt.load(path, device="cpu").model.state_dict() for path in (trained, tmp_path / "tuned"))
    assert all(torch.equal(tuned[name], weight) for name, weight in start.items())


def test_an_exported_model_has_no_data_to_be_evaluated_on(command, trained, tmp_path):
    command("export", f"run={trained}", "output=model", "format=igpt")
    with pytest.raises(SystemExit, match="evaluate is true, but model brings no data to measure on; leave it out"):
        command("export", "run=model", "output=again", "format=igpt", "evaluate=true")
    assert not (tmp_path / "again").exists()
