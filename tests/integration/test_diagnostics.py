"""callbacks=diagnostics: what it measures, against checkpoints and loaded models, and that training does not notice."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image

import igpt
from conftest import SMALL, run_command
from igpt import figures
from igpt.data.packed import open_packed, pack
from igpt.data.sources import EmojiSource
from igpt.metric_names import find_metric
from igpt.tokenizers.orders import order
from igpt.training.callbacks.attention_maps import seen_pixels

STEPS = (
    "trainer.max_steps=4", "trainer.val_check_interval=2", "sample_every=99", "save_every=1", "order=hilbert",
    "data.device_batch_size=8", "trainer.gradient_clip_val=0.5",
)  # fmt: skip
DIAGNOSTICS = (
    "callbacks=diagnostics", "callbacks.layer_norms.every_n_steps=4", "callbacks.attention_maps.every_n_steps=4",
    "callbacks.attention_maps.pixels=[[0,3],[5,5]]",
)  # fmt: skip


def checkpoint(run, name="last"):
    return torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)


def metrics(run):
    with open(run / "metrics.csv") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with two runs, `without` and `run`, of which the second has diagnostics; the heat maps and attention
    maps that it drew.
    """
    folder, drawn = tmp_path_factory.mktemp("runs"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IGPT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        draw, draw_attention = figures.heat_map, figures.attention
        patch.setattr(figures, "heat_map", lambda values, label: drawn.append(values) or draw(values, label))
        patch.setattr(figures, "attention", lambda *shown: drawn.append(shown) or draw_attention(*shown))
        run_command("train", *SMALL, *STEPS, "hydra.run.dir=without", cwd=folder)
        run_command("train", *SMALL, *STEPS, *DIAGNOSTICS, "hydra.run.dir=run", cwd=folder)
    return folder, drawn


def test_training_is_bitwise_the_same(runs):
    folder, _ = runs
    run, without = (checkpoint(folder / name) for name in ("run", "without"))
    torch.testing.assert_close(run["state_dict"], without["state_dict"], atol=0, rtol=0)
    torch.testing.assert_close(run["optimizer_states"], without["optimizer_states"], atol=0, rtol=0)
    for ours, theirs in zip(metrics(folder / "run"), metrics(folder / "without"), strict=True):
        for name in ("train/loss", "train/grad_norm", "val/nats_per_token", "test/nats_per_token"):
            assert ours[name] == theirs[name]


def test_norms_by_layer(runs):
    run = runs[0] / "run"
    *others, row = metrics(run)
    assert not any(each["updates/block_0"] or each["gradients/block_0"] for each in others)
    gradients = [float(row[f"gradients/{part}"]) for part in ("embeddings", "block_0", "head")]
    assert np.linalg.norm(gradients) == pytest.approx(float(row["train/grad_norm"]), rel=1e-5)
    assert np.linalg.norm(gradients) > 0.5  # before they are clipped
    assert all(find_metric(name) for name in row if name != "step")
    before, after = (checkpoint(run, name)["state_dict"] for name in ("previous", "last"))
    for part, prefix in (("block_0", "model.blocks.0."), ("head", ("model.head.", "model.norm."))):
        names = [name for name in before if name.startswith(prefix)]
        update = torch.cat([(after[name] - before[name]).flatten() for name in names])
        weights = torch.cat([before[name].flatten() for name in names])
        assert float(row[f"updates/{part}"]) == pytest.approx(float(update.norm() / weights.norm()), rel=1e-4)


def test_loss_by_position_and_class(runs, cache_of_session):
    folder, drawn = runs
    run, validation = folder / "run", cache_of_session["validation"]
    loaded = igpt.load(run, device="cpu", checkpoint="last")
    tokens = loaded.tokenizer.encode(torch.from_numpy(validation.images.copy()))
    with torch.no_grad():
        nats = -loaded.model(tokens).log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
    row = metrics(run)[3]
    assert float(row["val/nats_per_token"]) == pytest.approx(float(nats.mean()), rel=1e-5)
    classes = {name.removeprefix("val_class/"): float(value) for name, value in row.items() if "val_class/" in name}
    names = [name.replace(" ", "_").replace("&", "").replace("__", "_") for name in EmojiSource().classes]
    assert sorted(classes) == sorted(names)
    for number, name in enumerate(names):
        assert classes[name] == pytest.approx(float(nats[validation.labels == number].mean()), rel=1e-5)

    expected = torch.empty(64)
    expected[order("hilbert", 8).flatten()] = nats.mean(dim=0)
    maps = [values for values in drawn if isinstance(values, np.ndarray)]
    assert len(maps) == len(list((run / "position_loss").iterdir())) == 2
    np.testing.assert_allclose(maps[-1].flatten(), expected, rtol=1e-4)
    last = Image.open(run / "position_loss" / "step_0000004.png")
    assert np.array_equal(last, Image.open(run / "figures" / "position_loss.png"))


def test_attention_maps(runs):
    folder, drawn = runs
    ((images, pixels, maps, layers),) = [shown for shown in drawn if isinstance(shown, tuple)]
    assert maps.shape == (2, 2, 1, 8, 8)
    assert (images.shape, pixels, layers) == ((2, 8, 8, 3), [[0, 3], [5, 5]], [0])
    sequence = order("hilbert", 8).flatten().tolist()
    for number, (row, column) in enumerate(pixels):
        before = sequence[: sequence.index(8 * row + column)]
        seen = np.zeros(64, bool)
        seen[before] = True
        for image in range(2):
            assert np.array_equal(~np.isnan(maps[image, number, 0]), seen.reshape(8, 8))
            assert 0.2 < np.nansum(maps[image, number, 0]) < 1
    assert Image.open(folder / "run" / "attention" / "step_0000004.png").size[0] > 100
    assert not (folder / "run" / "attention" / "step_0000002.png").exists()


def test_a_masked_pixel_sees_all_others():
    seen = seen_pixels(igpt.tokenizers.RGB(), False, 48, query=47)
    assert bool(seen.all())
    gray = seen_pixels(igpt.tokenizers.Gray(), False, 16, query=5)
    assert (int(gray.sum()), bool(gray[1, 1])) == (15, False)


def test_a_fine_tuned_masked_model(command, tmp_path):
    command(
        "train", *SMALL, "objective=classify", "objective.task=mlm", "callbacks=diagnostics", "trainer.max_steps=1",
        "trainer.val_check_interval=1", "callbacks.attention_maps.every_n_steps=1",
        "callbacks.layer_norms.every_n_steps=1", "hydra.run.dir=run",
    )  # fmt: skip
    row = metrics(tmp_path / "run")[0]
    classes = [float(value) for name, value in row.items() if name.startswith("val_class/")]
    assert min(classes) < float(row["val/nats_per_token"]) < max(classes)
    assert row["updates/block_0"]
    assert float(row["gradients/task_head"]) > 0
    assert not row.get("updates/task_head")  # its weights were zero
    assert {"attention.png", "position_loss.png"} <= {path.name for path in (tmp_path / "run" / "figures").iterdir()}


def test_a_pixel_outside_of_the_image_is_one_sentence(command):
    with pytest.raises(SystemExit) as caught:
        command("train", *SMALL, *STEPS, "callbacks=diagnostics", "callbacks.attention_maps.pixels=[[8,0]]")
    assert "[8, 0]; pixels have rows 0 to 7" in caught.value.code


@pytest.fixture
def cache_of_session(tmp_path_factory):
    return open_packed(pack(EmojiSource(resolution=8), tmp_path_factory.getbasetemp() / "cache"))


def test_after_samples_the_model_is_still_evaluated_and_then_trained(command, tmp_path):
    """A callback that follows sees the model without dropout."""
    modes = ("+callbacks.modes._target_=recorder.RecordModes", "+callbacks.modes.file=${run_dir}/modes.txt")
    steps = ("trainer.max_steps=2", "trainer.val_check_interval=1", "sample_every=1", "data.num_workers=0")
    command("train", *SMALL, *steps, *modes, "hydra.run.dir=run")
    assert (tmp_path / "run" / "samples" / "step_0000001.png").exists()
    assert (tmp_path / "run" / "modes.txt").read_text().split("\n")[:-1] == ["step True", "validation False"] * 2
