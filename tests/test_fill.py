"""A masked model fills any mask; what is given stays, and the lower half is what `complete` generates."""

import numpy as np
import pytest
import torch
from PIL import Image

import igpt
from conftest import SMALL, random_weights
from igpt.errors import IgptError
from igpt.model.config import TransformerConfig
from igpt.objectives.tasks import Autoregressive, Masked
from igpt.pretrained import Pretrained
from igpt.tokenizers import RGB, Palette, with_order

PALETTE = Palette(255 * np.random.default_rng(0).random((11, 3)))
TOKENIZERS = {
    "palette": PALETTE,
    "spiral palette": with_order(PALETTE, "spiral"),
    "random RGB": with_order(RGB(), "random"),
}


def pretrained(tokenizer=PALETTE, task=Masked(0.1, max_ratio=1.0)):  # noqa: B008, it is immutable
    shape = {"n_layer": 2, "n_head": 2, "n_embd": 16, "vocab_size": tokenizer.vocab_size}
    config = TransformerConfig(**shape, n_positions=tokenizer.n_tokens(4), causal=task.causal)
    return Pretrained(random_weights(config), tokenizer, task)


def images(n):
    return np.random.default_rng(1).integers(0, 256, (n, 4, 4, 3), np.uint8)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_only_masked_pixels_change(name):
    model = pretrained(TOKENIZERS[name])
    masks = np.random.default_rng(2).random((5, 4, 4)) < 0.5
    masks[3] = False
    filled = model.fill(images(5), masks, n=3)
    shown = model.tokenizer.decode(model.tokenize(images(5))).numpy()
    assert filled.shape == (5, 3, 4, 4, 3)
    for copy in range(3):
        np.testing.assert_array_equal(filled[:, copy][~masks], shown[~masks])
    assert (filled[:, 0] != shown)[masks].any(axis=-1).mean() > 0.5
    assert (filled[:, 0] != filled[:, 1])[masks].any()


def test_an_empty_mask_changes_nothing():
    model = pretrained()
    filled = model.fill(images(2), np.zeros((4, 4), bool))
    np.testing.assert_array_equal(filled[:, 0], model.tokenizer.decode(model.tokenize(images(2))).numpy())


@pytest.mark.parametrize("name", TOKENIZERS)
def test_filling_what_is_not_given_is_completion(name):
    model = pretrained(TOKENIZERS[name])
    filled = model.fill(images(3), ~model.given_mask(0.5), n=2, seed=4)
    np.testing.assert_array_equal(filled, model.complete(images(3), n=2, given=0.5, seed=4))


def test_one_mask_for_all_is_one_for_each_and_does_not_depend_on_the_batches():
    model, mask = pretrained(), np.eye(4, dtype=bool)
    expected = model.fill(images(5), mask, n=2)
    np.testing.assert_array_equal(model.fill(images(5), mask[::-1, ::-1], n=2), expected)  # equal, and a flipped view
    np.testing.assert_array_equal(model.fill(images(5), torch.from_numpy(mask).expand(5, 4, 4), n=2), expected)
    model.batch_size = 3
    np.testing.assert_array_equal(model.fill(images(2), mask, n=2), expected[:2])


def test_an_autoregressive_model_says_why_it_cannot():
    with pytest.raises(
        IgptError, match="is autoregressive, so it sees only the pixels before the one that it generates"
    ):
        pretrained(task=Autoregressive()).fill(images(1), np.eye(4, dtype=bool))


@pytest.mark.parametrize("mask", [np.eye(4), np.eye(5, dtype=bool), np.ones((3, 4, 4), bool), [[True]], None])
def test_what_is_no_mask_is_refused(mask):
    with pytest.raises(IgptError, match=r"A mask must be bool, of shape \(4, 4\) or \(2, 4, 4\)"):
        pretrained().fill(images(2), mask)


def test_the_command_fills_the_light_pixels_of_an_image(command, tmp_path, trained):
    command("train", *SMALL, "objective=mlm", "objective.max_ratio=1", "trainer.max_steps=1", "callbacks=none",
            "sample_every=null", "hydra.run.dir=masked")  # fmt: skip
    photo = np.random.default_rng(1).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    mask = np.zeros((16, 16), np.uint8)  # of twice the resolution
    mask[4:12, 4:12] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    fill = ("images=photo.png", "mask=mask.png", "n=0", "completions=2", "output=out")
    assert "Results are in out: filled.png" in command("sample", "run=masked", *fill)
    filled = np.load(tmp_path / "out" / "arrays.npz")["filled"]
    model = igpt.load(tmp_path / "masked", device="cpu")
    np.testing.assert_array_equal(filled, model.fill(photo, mask[::2, ::2] > 0, n=2))
    for arguments, message in {
        (f"run={trained}", *fill): "is autoregressive",
        ("run=masked", *fill, "completions=0", "n=1"): "completions is 0; it is how often the mask is filled",
    }.items():
        with pytest.raises(SystemExit, match=message):
            command("sample", *arguments)
