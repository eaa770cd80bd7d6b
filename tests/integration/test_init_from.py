"""What `init_from` brings along: the model's shape, tokenizer, order and resolution."""

import csv
import logging
import shutil
from dataclasses import asdict

import coarse_tokenizer
import numpy as np
import pytest
import smoothed_task
import torch

import igpt
from conftest import random_weights
from igpt.checkpoint import Description, step_of
from igpt.configuration.stored import configuration_of
from igpt.convert import hugging_face, igpt_folder
from igpt.convert.stored_model import StoredModel
from igpt.model.config import TransformerConfig
from igpt.objectives.tasks import Autoregressive, Masked, task_state
from igpt.run_directory import RunDirectory
from igpt.tokenizers import RGB, Gray, Palette, tokenizer_state, with_order

FEW = (
    "data=emoji", "data.batch_size=8", "data.eval_batch_size=512", "logger=none", "trainer=cpu", "callbacks=none",
    "trainer.val_check_interval=2", "trainer.limit_val_batches=1", "trainer.log_every_n_steps=1", "sample_every=null",
    "optim.total_steps=4",
)  # fmt: skip


def write_model(folder, tokenizer, task=Autoregressive(), side=8, write=igpt_folder.write, **shape):  # noqa: B008
    """An exported folder with a model of odd shape and random weights."""
    shape = {"n_layer": 2, "n_head": 3, "n_embd": 24, **shape}
    config = TransformerConfig(
        **shape, vocab_size=tokenizer.vocab_size, n_positions=tokenizer.n_tokens(side), causal=task.causal
    )
    weights = {f"model.{name}": weight for name, weight in random_weights(config, std=0.1).state_dict().items()}
    head = task.make_head(config, 3)
    weights |= {} if head is None else {f"head.{name}": weight for name, weight in head.state_dict().items()}
    described = Description(asdict(config), task_state(task), tokenizer_state(tokenizer), ["a", "b", "c"], {}, {}, None)
    folder.mkdir()
    write(StoredModel(folder, described, weights), folder)


def palette():
    return Palette(255 * np.random.default_rng(0).random((17, 3)))


@pytest.fixture
def start(tmp_path):
    """Writes the model `start`, which commands in the same folder may name."""
    return lambda *arguments, **options: write_model(tmp_path / "start", *arguments, **options)


@pytest.fixture
def refused(command):
    def message(name, *arguments):
        with pytest.raises(SystemExit) as caught:
            command(name, *arguments)
        return str(caught.value.code)

    return message


def plan(*choices):
    """A command that composes the configuration as igpt-train does, and reads no data."""
    return ("plan", "objective=classify", "init_from=start", *choices)


def losses(run):
    with (run / "metrics.csv").open() as file:
        return [row["train/loss"] for row in csv.DictReader(file)]


@pytest.mark.parametrize("task", ["ar", "mlm"])
def test_a_model_brings_its_values_and_its_fine_tuning_resumes_without_it(command, start, tmp_path, task):
    """Resumed by run=, and by repeating the command, as SLURM does."""
    if task == "ar":
        start(palette(), write=hugging_face.write)
    else:
        start(with_order(Gray(), "hilbert"), Masked(max_ratio=1.0))
    train = ("train", *FEW, "objective=classify", f"init_from={tmp_path}/start", "trainer.max_steps=4", "save_every=2")
    command(*train, "hydra.run.dir=run")
    run = RunDirectory(tmp_path / "run")
    config = configuration_of(run)
    assert [config.model.n_layer, config.model.n_head, config.model.n_embd] == [2, 3, 24]
    assert (config.order, config.objective.task) == ("hilbert" if task == "mlm" else "raster", task)
    assert config.data.source.resolution == 8
    tokenizer = "Gray" if task == "mlm" else "kmeans.PaletteRecipe"
    assert (config.tokenizer["_target_"], config.tokenizer.get("size", 17)) == (f"igpt.tokenizers.{tokenizer}", 17)
    assert run.palette.exists() == (task == "ar")
    whole, expected = torch.load(run.last, weights_only=True), losses(run.path)
    assert whole["igpt"]["task"]["task"] == task_state(Masked(max_ratio=1.0) if task == "mlm" else Autoregressive())

    run.previous.replace(run.last)  # as if it had been killed after two steps
    assert step_of(run.last) == 2
    shutil.rmtree(tmp_path / "start")
    command(*(("train", "run=run") if task == "ar" else (*train, "hydra.run.dir=run")))
    assert losses(run.path) == expected
    torch.testing.assert_close(
        torch.load(run.last, weights_only=True)["state_dict"], whole["state_dict"], rtol=0, atol=0
    )


@pytest.mark.parametrize("objective", ["ar", "mlm"])
def test_pre_training_from_a_model_resumes_when_its_command_is_repeated(command, start, tmp_path, objective):
    start(palette(), Masked() if objective == "mlm" else Autoregressive())
    train = (
        "train",
        *FEW,
        f"objective={objective}",
        "init_from=start",
        "trainer.max_steps=4",
        "save_every=2",
    )
    command(*train, "hydra.run.dir=run")
    run = RunDirectory(tmp_path / "run")
    expected = losses(run.path)
    run.previous.replace(run.last)
    shutil.rmtree(tmp_path / "start")  # a relative path, to what has gone
    command(*train, "hydra.run.dir=run")
    assert losses(run.path) == expected


def test_a_run_without_a_checkpoint_begins_again(command, start, refused, tmp_path):
    start(palette())
    train = ("train", *FEW, "objective=classify", "init_from=start", "trainer.max_steps=1")
    command(*train, "hydra.run.dir=run")
    first = losses(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    (tmp_path / "run" / "metrics.csv").unlink()
    shutil.copytree(tmp_path / "run", tmp_path / "other")
    command("train", "run=run")
    assert losses(tmp_path / "run") == first

    shutil.rmtree(tmp_path / "start")
    start(palette(), n_layer=3)
    message = refused("train", "run=other")
    assert "has model.n_layer=3, but the run began from one with model.n_layer=2; put that model back" in message


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("model=nano", "has model.n_layer=2, model.n_head=3, model.n_embd=24, but this configuration chooses model."),
        (
            "model.n_layer=6",
            "has model.n_layer=2, but this configuration chooses model.n_layer=6; leave that choice out.",
        ),
        (
            "tokenizer=palette",
            "has tokenizer=gray, but this configuration chooses tokenizer=palette tokenizer.size=512",
        ),
        ("tokenizer.seed=0", "has tokenizer=gray, but this configuration chooses tokenizer=palette tokenizer.size=512"),
        ("order=raster", "has order=spiral, but this configuration chooses order=raster; leave that choice out."),
        (
            "data.source.resolution=32",
            "has data.source.resolution=8, but this configuration chooses data.source.resolution=32; leave that choice "
            "out, or set interpolate_positions=true to train at another resolution.",
        ),
        ("data.source={resolution:32}", "but this configuration chooses data.source.resolution=32"),
        ("objective.task=mlm", "has objective.task=ar, but this configuration chooses objective.task=mlm"),
        ("objective=mlm", "is autoregressive, but the objective is for a model that is masked; choose objective=ar or"),
        ("tokenizer.path=palette.npz", "init_from and tokenizer.path both name a palette; leave tokenizer.path=null."),
    ],
)
def test_a_choice_that_differs_is_refused_even_if_it_is_a_default(refused, start, choice, message):
    start(with_order(Gray(), "spiral"))
    assert message in refused(*plan(choice))


def test_equal_choices_are_accepted(command, start):
    start(palette())
    choices = ("model.n_head=3", "tokenizer.size=17", "order=raster", "data.source.resolution=8", "objective.task=ar")
    assert "2 blocks, width 24, 3 heads" in command(*plan(*choices))  # 3 heads would not share the default width


def test_what_an_experiment_chooses_is_refused_too(refused, start):
    start(palette())
    message = refused("plan", "experiment=emoji_ar", "init_from=start")
    assert "has tokenizer=palette tokenizer.size=17, data.source.resolution=8, but this configuration " in message
    assert "chooses tokenizer=palette tokenizer.size=128, data.source.resolution=16;" in message


def test_a_job_of_a_sweep_that_chooses_another_value(command, start, capsys):
    start(palette())
    with pytest.raises(SystemExit):
        command("plan", "-m", *plan("order=raster,hilbert")[1:])
    printed = capsys.readouterr()
    assert "2 blocks, width 24, 3 heads" in printed.out
    assert "has order=raster, but this configuration chooses order=hilbert" in printed.out + printed.err


def test_rules_about_the_model_are_checked_with_its_values(command, refused, start):
    start(palette(), n_layer=9)
    probe = ("callbacks=online_probe", "callbacks.online_probe.n_train=10", "monitor=probe/layer_8")
    assert "9 blocks" in command(*plan(*probe, "callbacks.online_probe.layers=[8]"))
    message = refused(*plan("callbacks=online_probe", "callbacks.online_probe.layers=[10]"))
    assert message.startswith("Error: With the values that the model in init_from=start determines, callbacks.online_")
    assert "layers are numbered from 0 to 9" in message


def test_data_that_do_not_exist_at_the_resolution_of_the_model(refused, start, tmp_path):
    start(palette(), side=6)
    assert "data.source.resolution is 6; it must be 4, 8, 16 or 32" in refused(*plan("data=cifar10"))
    message = refused("probe", "run=start", "data=cifar10", "logger=none")
    assert "the model in run=start determines, data.source.resolution is 6; it must be 4, 8, 16 or 32" in message


def test_data_are_packed_at_the_resolution_of_the_model(command, start, tmp_path):
    start(palette())
    printed = command("probe", "run=start", "data=emoji", "data.eval_batch_size=512", "logger=none", "untrained=false")
    assert "The images are packed at the model's resolution, data.source.resolution=8" in printed
    assert (tmp_path / "start" / "probe" / "emoji" / "accuracy.csv").exists()


def test_a_tokenizer_of_ones_own_comes_along(command, start):
    start(with_order(coarse_tokenizer.Coarse(5), "spiral"), side=12)
    assert "images              12x12 pixels, 36 tokens, vocabulary of 5" in command(
        *plan("data=folder", "data.source.path=.")
    )


def test_position_embeddings_are_interpolated_when_asked_for(command, refused, start, tmp_path):
    start(with_order(RGB(), "serpentine"), side=4)
    train = ("train", *FEW, "init_from=start", "trainer.max_steps=1", "optim.lr=1e-30", "data.source.resolution=8")
    command(*train, "interpolate_positions=true", "hydra.run.dir=run")
    before, after = (igpt.load(tmp_path / name, device="cpu").model.state_dict() for name in ("start", "run"))
    positions = "position_embedding.weight"
    assert all(torch.equal(after[name], weight) for name, weight in before.items() if name != positions)
    assert after[positions].shape == (8 * 8 * 3, 24)
    # The mean over every block of 2x2 pixels resembles the embedding that was there.
    grids = (with_order(RGB(), "serpentine").grid(n) for n in (4 * 4 * 3, 8 * 8 * 3))
    old, new = (weights[positions][grid] for weights, grid in zip((before, after), grids, strict=True))
    means = new.unflatten(1, (4, 2)).unflatten(0, (4, 2)).mean(dim=(1, 3))
    assert torch.corrcoef(torch.stack([means.flatten(), old.flatten()]))[0, 1] > 0.95
    assert "a model in init_from" in refused("train", *FEW, "interpolate_positions=true")


@pytest.mark.parametrize("resolution", ["data.source.resolution=16", "order=raster"])
def test_interpolation_keeps_the_resolution_of_the_data(command, start, resolution):
    start(palette())
    side = 16 if "16" in resolution else 32
    assert f"{side}x{side} pixels" in command(*plan("interpolate_positions=true", resolution))


def test_a_head_that_is_not_a_classifier_is_named(start, tmp_path, caplog):
    start(palette(), task=smoothed_task.WithHead())
    with caplog.at_level(logging.INFO):
        igpt.load(tmp_path / "start", device="cpu")
    assert "The head that WithHead trained beside the model is left out" in caplog.text
