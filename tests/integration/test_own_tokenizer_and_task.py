"""A tokenizer and a task of a user's own, which igpt knows nothing of: they train, resume, and are used by all
commands.
"""

import csv
import json

import coarse_tokenizer
import numpy as np
import pytest
import smoothed_task
import torch

import igpt
from conftest import run_command
from igpt.objectives.tasks import Task
from igpt.tokenizers import Tokenizer, tokenizer_from_state, tokenizer_state, with_order

RECIPE = (
    "experiment=emoji_ar", "logger=none", "data.source.resolution=8", "data.eval_batch_size=512", "model.n_layer=1",
    "model.n_embd=32", "trainer.log_every_n_steps=1", "data.num_workers=0", "trainer.limit_val_batches=1",
    "tokenizer=gray", "tokenizer._target_=coarse_tokenizer.Coarse", "+tokenizer.levels=8", "order=spiral",
    "sample_every=2", "trainer.val_check_interval=2", "optim.total_steps=4",
)  # fmt: skip
SMOOTHED = ("objective._target_=smoothed_task.Smoothed", "+objective.smoothing=0.3")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with a run of four steps, and the same one resumed after two."""
    folder = tmp_path_factory.mktemp("mine")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IGPT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        run_command("train", *RECIPE, *SMOOTHED, "trainer.max_steps=4", "hydra.run.dir=whole", cwd=folder)
        run_command("train", *RECIPE, *SMOOTHED, "trainer.max_steps=2", "hydra.run.dir=cut", cwd=folder)
        run_command("train", "run=cut", "trainer.max_steps=4", cwd=folder)
    return folder


def rows(run):
    with open(run / "metrics.csv") as file:
        return list(csv.DictReader(file))


def test_they_train_and_resume_bitwise(runs):
    whole, cut = (torch.load(runs / name / "checkpoints" / "last.ckpt", weights_only=True) for name in ("whole", "cut"))
    torch.testing.assert_close(cut["state_dict"], whole["state_dict"], rtol=0, atol=0)
    assert {"name": "smoothed_task.Smoothed", "smoothing": 0.3}.items() <= cut["igpt"]["task"].items()
    assert cut["igpt"]["tokenizer"]["tokenizer"] == {"name": "coarse_tokenizer.Coarse", "levels": 8}
    first = rows(runs / "whole")[0]
    assert float(first["train/nats_per_token"]) == pytest.approx(np.log(8), rel=1e-6)  # 8 levels, and the head is zero
    last = rows(runs / "whole")[-1]
    assert float(last["train/loss"]) > float(last["train/nats_per_token"])


def test_python_uses_them(runs):
    model = igpt.load(runs / "cut", device="cpu")
    assert model.task == smoothed_task.Smoothed(smoothing=0.3)
    assert model.tokenizer.fingerprint == "coarse-8-spiral"
    assert model.model.config.n_positions == 16
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    assert model.sample(2).shape == (2, 8, 8, 3)
    mask = model.given_mask(0.5)
    assert mask.sum() == 32
    shown = model.tokenizer.decode(model.tokenize(images)).numpy()
    completed = model.complete(images, n=2)
    for i in range(2):
        np.testing.assert_array_equal(completed[:, i][:, mask], shown[:, mask])


def test_commands_use_them(runs, command, tmp_path):
    run = runs / "cut"
    command("evaluate", f"run={run}")
    expected = json.loads((run / "summary.json").read_text())["test/nats_per_token"]
    assert json.loads((run / "evaluation" / "test.json").read_text())["test/nats_per_token"] == expected
    command("sample", f"run={run}", "n=2", "n_images=1", "completions=1", "output=generated")
    assert np.load(tmp_path / "generated" / "arrays.npz")["samples"].shape == (2, 8, 8, 3)
    command("probe", f"run={run}", "logger=none", "untrained=false")
    with open(run / "probe" / "accuracy.csv") as file:
        assert [row["features"] for row in csv.DictReader(file)][:2] == ["trained", "trained"]
    assert "16" in command("plan", *RECIPE, *SMOOTHED, "trainer.max_steps=4")


def test_a_masked_model_fills_in_whole_cells(command, tmp_path):
    command("train", *RECIPE, "objective=mlm", "trainer.max_steps=1", "hydra.run.dir=masked")
    model = igpt.load(tmp_path / "masked", device="cpu")
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)
    masks, filled = model.predict_fixed_masks(images)
    cells = masks.reshape(5, 4, 2, 4, 2)
    assert (cells.any(axis=(2, 4)) == cells.all(axis=(2, 4))).all()
    shown = model.tokenizer.decode(model.tokenize(images)).numpy()
    np.testing.assert_array_equal(filled[~masks], shown[~masks])


@pytest.mark.parametrize("name", ["raster", "random"])
def test_a_coarse_grid_in_any_order(name):
    tokenizer = with_order(coarse_tokenizer.Coarse(), name)
    tokens = torch.randint(16, (2, tokenizer.n_tokens(6)), generator=torch.Generator().manual_seed(0))
    assert tokens.shape == (2, 9)
    assert torch.equal(tokenizer.encode(tokenizer.decode(tokens)), tokens)
    assert tokenizer_from_state(tokenizer_state(tokenizer)).fingerprint == tokenizer.fingerprint
    assert tokenizer.n_given(0.5, 9) == (6 if name == "raster" else 4)  # 1.5 rows are rounded to 2
    with pytest.raises(igpt.IgptError, match="set data.source.resolution to a multiple of 2"):
        tokenizer.n_tokens(7)


@pytest.mark.parametrize("base", [Tokenizer, Task])
def test_an_empty_subclass_cannot_be_made(base):
    with pytest.raises(TypeError, match="abstract"):
        type("Empty", (base,), {})()


@pytest.mark.parametrize("part", ["tokenizer", "objective"])
@pytest.mark.parametrize("name", ["train", "plan"])
def test_a_tokenizer_or_task_of_another_class_is_refused(command, name, part):
    with pytest.raises(SystemExit) as caught:
        command(name, *(a for a in RECIPE if "tokenizer." not in a), f"{part}._target_=collections.OrderedDict",
                "trainer.max_steps=1", "hydra.run.dir=run")  # fmt: skip
    assert f"{part}._target_ is collections.OrderedDict" in caught.value.code
