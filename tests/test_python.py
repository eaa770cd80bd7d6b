"""igpt in Python: what goes in, in which forms, and one sentence for what cannot."""

import pydoc

import numpy as np
import pytest
import torch
from PIL import Image

import igpt
from conftest import random_weights
from igpt.data.sources import ImageFolderSource
from igpt.model.config import TransformerConfig
from igpt.objectives.tasks import Autoregressive
from igpt.pretrained import Pretrained
from igpt.tokenizers import Palette

SIDE = 4
RNG = np.random.default_rng(0)
PHOTO = Image.fromarray(RNG.integers(0, 256, (30, 20, 3), np.uint8))


@pytest.fixture(scope="module")
def model():
    shape = {"n_layer": 2, "n_head": 2, "n_embd": 16, "vocab_size": 11, "n_positions": SIDE**2}
    return Pretrained(random_weights(TransformerConfig(**shape)), Palette(RNG.random((11, 3)) * 255), Autoregressive())


def images(n):
    return RNG.integers(0, 256, (n, SIDE, SIDE, 3), np.uint8)


def test_arrays_tensors_lists_and_pil_images_are_the_same(model):
    given = images(3)
    expected = model.log_likelihood(given)
    forms = {
        "tensor": torch.from_numpy(given),
        "list of arrays": list(given),
        "tuple of tensors": tuple(torch.from_numpy(given)),
        "list of PIL images": [Image.fromarray(image) for image in given],
        "a mixture": [given[0], torch.from_numpy(given[1]), Image.fromarray(given[2])],
    }
    for form, value in forms.items():
        np.testing.assert_array_equal(model.log_likelihood(value), expected, err_msg=form)
    for one in (given[0], torch.from_numpy(given[0]), Image.fromarray(given[0])):
        np.testing.assert_allclose(model.log_likelihood(one), expected[:1], rtol=1e-6)
    assert model.complete(Image.fromarray(given[0]), n=2).shape == (1, 2, SIDE, SIDE, 3)


@pytest.mark.parametrize("kind", ["RGB", "RGBA", "L", "P", "turned"])
def test_a_pil_image_becomes_what_training_makes_of_its_file(model, tmp_path, kind):
    photo = PHOTO.convert("RGB" if kind == "turned" else kind)
    if kind == "turned":
        photo.getexif()[274] = 6
    (tmp_path / "a").mkdir()
    for name in range(10):
        photo.save(tmp_path / "a" / f"{name}.png", exif=photo.getexif())
    trained_on = ImageFolderSource(path=str(tmp_path), resolution=SIDE, cache_dir=str(tmp_path / "cache"))
    (expected,) = trained_on.read("train", 0, 1).images
    before = photo.tobytes()
    np.testing.assert_array_equal(model.tokenize(photo), model.tokenize(expected))
    assert photo.tobytes() == before
    np.testing.assert_array_equal(igpt.read_images(tmp_path / "a", SIDE), np.stack([expected] * 10))
    np.testing.assert_array_equal(igpt.read_images([str(tmp_path / "a" / "3.png")], SIDE), expected[None])


@pytest.mark.parametrize(("given", "sentence"), [
    ([], "No image is given; give at least one."),
    (np.empty((0, SIDE, SIDE, 3), np.uint8), "No image is given; give at least one."),
    (np.zeros((2, SIDE, SIDE, 3)), "these are float64 of shape (2, 4, 4, 3)"),
    (torch.zeros(2, 3, SIDE, SIDE), "these are float32 of shape (2, 3, 4, 4)"),
    (np.zeros((2, 8, 8, 3), np.uint8), "uint8 images of shape (N, 4, 4, 3); these are uint8 of shape (2, 8, 8, 3)"),
    ([np.zeros((8, 8, 3), np.uint8)], "these are uint8 of shape (8, 8, 3)"),
    ("cat.png", "not str; igpt.read_images reads files"),
    (["cat.png"], "not str; igpt.read_images reads files"),
    ([Image.new("F", (4, 4))], "An image of mode F cannot be used: it contains floating-point numbers"),
    (None, "not NoneType"),
])  # fmt: skip
@pytest.mark.parametrize("ask", ["complete", "features", "log_likelihood", "classify"])
def test_what_is_no_image_is_refused_in_one_sentence(model, ask, given, sentence):
    with pytest.raises(igpt.IgptError) as caught:
        getattr(model, ask)(given)
    assert sentence in str(caught.value)


def test_layers_are_checked(model):
    every = model.features(images(2))
    assert every.shape == (2, 3, 16)
    given = images(2)
    np.testing.assert_array_equal(model.features(given, layer=-1), model.features(given)[:, 2])
    for layer in (3, 99, -4):
        with pytest.raises(igpt.IgptError, match=f"layer is {layer}; this model has layers 0 to 2"):
            model.features(given, layer=layer)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has the device")
@pytest.mark.parametrize("device", ["cuda", "cuda:1", "gpu"])
def test_a_device_that_is_not_there(model, trained, device):
    for ask in (model.to, lambda device: igpt.load(trained, device=device)):
        with pytest.raises(igpt.IgptError, match=f"device is '{device}', which cannot be used here .*; choose cpu"):
            ask(device)


def test_the_representation_says_what_was_loaded(trained, model):
    loaded = repr(igpt.load(trained))
    for part in (
        "autoregressive",
        "1 layers x 32",
        "8x8 pixels",
        "Palette(16 colors",
        "on cpu",
        "best.ckpt",
        str(trained),
    ):
        assert part in loaded
    model.classes = ("cat", "dog", "eel", "fox")
    assert "4 classes (cat, dog, eel, ... (4))" in repr(model)
    model.classes = ()


def test_help_shows_the_public_names():
    text = pydoc.render_doc(igpt, renderer=pydoc.plaintext)
    for name in ("class IgptError", "class Pretrained", "load(run:", "read_images(paths:", "complete(self, images"):
        assert name in text
    assert set(igpt.__all__) <= set(dir(igpt))


def test_reading_nothing_and_at_no_resolution(tmp_path):
    assert igpt.read_images([], 8).shape == (0, 8, 8, 3)
    with pytest.raises(igpt.IgptError, match="There is no image at nowhere.png"):
        igpt.read_images("nowhere.png", 8)
    with pytest.raises(igpt.IgptError, match="The resolution is 0"):
        igpt.read_images([], 0)
