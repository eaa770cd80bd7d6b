"""Data in NumPy arrays: every accepted form gives the same images, and everything else one sentence."""

import pickle

import numpy as np
import pytest
from PIL import Image

from conftest import train_two_steps
from igpt.data.sources import ArraysSource, ImageFolderSource
from igpt.errors import IgptError

RNG = np.random.default_rng(0)
SIDE = 8
IMAGES = RNG.integers(0, 256, (30, SIDE, SIDE, 3), np.uint8)
LABELS = np.arange(30) % 3
SPLIT = {
    "train_images": IMAGES[:20], "train_labels": LABELS[:20], "test_images": IMAGES[20:], "test_labels": LABELS[20:],
}  # fmt: skip


def read_all(source):
    chunks = [source.read(split, 0, n) for split, n in source.sizes().items()]
    return {(image.tobytes(), label) for part in chunks for image, label in zip(part.images, part.labels, strict=True)}


def source_of(arrays, form, folder, **settings):
    settings = {"resolution": SIDE, **settings}
    if form == "memory":
        return ArraysSource(arrays=arrays, **settings)
    if form == "npy":
        folder = folder / "arrays"
        folder.mkdir()
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array)
        return ArraysSource(str(folder), **settings)
    save = np.savez if form == "npz" else np.savez_compressed
    save(folder / "a.npz", **arrays)
    return ArraysSource(str(folder / "a.npz"), **settings)


@pytest.mark.parametrize("form", ["memory", "npy", "npz", "compressed"])
def test_the_splits_of_every_form(form, tmp_path):
    source = source_of({**SPLIT, "mean": np.zeros(3), "ids": np.array([{}])}, form, tmp_path)  # of no use, not read
    assert source.classes == ("0", "1", "2")
    assert source.sizes() == {"train": 18, "validation": 2, "test": 10}
    copy = pickle.loads(pickle.dumps(source))
    assert len(pickle.dumps(source)) < 10_000 or form == "memory"  # opened files do not travel to other processes
    test = copy.read("test", 3, 7)
    np.testing.assert_array_equal(test.images, IMAGES[23:27])
    np.testing.assert_array_equal(test.labels, LABELS[23:27])
    assert read_all(copy) == {(image.tobytes(), label) for image, label in zip(IMAGES, LABELS, strict=True)}


@pytest.mark.parametrize(("names", "splits"), [
    (("images", "labels"), ("train",)),
    (("x", "y"), ("train",)),
    (("x_train", "y_train", "x_test", "y_test"), ("train", "test")),
    (("X_train", "y_train", "X_val", "y_val"), ("train", "validation")),
    (("train_images", "train_labels", "val_images", "val_labels", "test_images", "test_labels"),
     ("train", "validation", "test")),
])  # fmt: skip
def test_the_names_of_arrays(names, splits):
    arrays = {name: (IMAGES if i % 2 == 0 else LABELS) for i, name in enumerate(names)}
    source = ArraysSource(arrays=arrays, resolution=SIDE)
    assert tuple(source._provided_splits()) == splits
    assert min(source.sizes().values()) > 0


@pytest.mark.parametrize("shape", [(30, SIDE, SIDE), (30, SIDE, SIDE, 1)])
def test_gray_images_have_three_equal_channels(shape):
    gray = RNG.integers(0, 256, shape, np.uint8)
    chunk = ArraysSource(arrays={"train_images": gray, "test_images": gray}, resolution=SIDE).read("test", 0, 30)
    np.testing.assert_array_equal(chunk.images, np.stack([gray.reshape(30, SIDE, SIDE)] * 3, axis=-1))
    assert (chunk.labels == -1).all()


@pytest.mark.parametrize("shape", [(16, 16), (16, 16, 3), (5, 9, 3), (20, 12)])
def test_other_sizes_become_what_their_image_files_become(shape, tmp_path):
    images = RNG.integers(0, 256, (10, *shape), np.uint8)
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    np.save(tmp_path / "images.npy", images)
    shares = {"resolution": SIDE, "validation_share": 0.2}
    found = ArraysSource(str(tmp_path / "images.npy"), **shares)
    expected = ImageFolderSource(str(tmp_path), **shares)
    for split, n in found.sizes().items():
        np.testing.assert_array_equal(found.read(split, 0, n).images, expected.read(split, 0, n).images)


def test_labels_as_a_column_may_be_missing_and_have_names():
    labels = np.where(np.arange(30) % 5 == 0, -1, LABELS)
    named = {"arrays": {"images": IMAGES, "labels": labels[:, None].astype(np.int8)}, "resolution": SIDE}
    source = ArraysSource(**named, class_names=("cat", "dog", "eel", "fox"))
    assert source.classes == ("cat", "dog", "eel", "fox")
    assert read_all(source) == {(image.tobytes(), label) for image, label in zip(IMAGES, labels, strict=True)}
    without = ArraysSource(**named, labels=False)
    assert without.classes == ()
    assert {label for _, label in read_all(without)} == {-1}


@pytest.mark.parametrize("form", ["memory", "npy", "npz"])
def test_the_key_follows_what_is_in_the_arrays(form, tmp_path):
    def key(arrays):
        (tmp_path / str(len(keys))).mkdir()
        source = source_of(arrays, form, tmp_path / str(len(keys)), cache_dir=str(tmp_path / "cache"))
        keys.append(source.key())
        return keys[-1]

    keys = []
    assert key(SPLIT) == key(SPLIT)
    other = IMAGES[:20].copy()
    other[3, 2, 1, 0] ^= 1
    assert key({**SPLIT, "train_images": other}) != keys[0]
    assert key({**SPLIT, "train_labels": LABELS[1:21]}) != keys[0]


IMAGES_ONLY = {"images": IMAGES}


@pytest.mark.parametrize(("arrays", "sentence"), [
    ({"images": IMAGES / 255}, "images of arrays in memory has values of type float64; images must be uint8"),
    ({"images": np.array([{}] * 30)}, "has values of type object; images must be uint8"),
    ({"images": IMAGES[0, 0]}, "has the shape (8, 3); images must have (N, H, W)"),
    ({"images": IMAGES.transpose(0, 3, 1, 2)}, "has the shape (30, 3, 8, 8); images must have (N, H, W)"),
    ({"images": IMAGES[:0]}, "is empty: its shape is (0, 8, 8, 3)"),
    ({"pixels": IMAGES}, "has no training images among its arrays (pixels); name them train_images"),
    ({"images": IMAGES[0]}, "has the shape (8, 8, 3), which looks like one color image"),
    ({}, "arrays in memory has no arrays; name the arrays"),
    ({"test_images": IMAGES}, "has no training images among its arrays (test_images)"),
    ({**IMAGES_ONLY, "x": IMAGES}, "has both images and x for train images; keep one"),
    ({**IMAGES_ONLY, "labels": LABELS[:29]}, "labels of arrays in memory has 29 labels for 30 train images."),
    ({**IMAGES_ONLY, "labels": LABELS / 2}, "has values of type float64; labels must be whole numbers"),
    ({**IMAGES_ONLY, "labels": np.eye(30, dtype=int)}, "has the shape (30, 30); labels must have (N,) or (N, 1)"),
    ({**IMAGES_ONLY, "labels": np.array(3)}, "has the shape (); labels must have (N,) or (N, 1)"),
    ({**IMAGES_ONLY, "labels": LABELS - 2}, "has the label -2; classes must be numbered from 0"),
    ({**IMAGES_ONLY, "labels": LABELS + 10**9}, "has the label 1000000002; classes must be numbered from 0"),
    ({**SPLIT, "test_labels": LABELS[20:] + 1}, "test_labels of arrays in memory has the label 3, but the training"),
    ({**IMAGES_ONLY, "test_labels": LABELS}, "has test_labels, but no labels of the training images"),
    ({**SPLIT, "validation_labels": LABELS}, "has 30 labels for 0 validation images"),
])  # fmt: skip
def test_what_is_no_data_is_refused_in_one_sentence(arrays, sentence):
    with pytest.raises(IgptError) as caught:
        ArraysSource(arrays=arrays, resolution=SIDE).sizes()
    assert sentence in str(caught.value)


def test_labels_beyond_the_named_classes_are_refused():
    with pytest.raises(IgptError, match=r"has the label 2, but data.source.class_names has only 2 classes"):
        ArraysSource(arrays=SPLIT, class_names=("cat", "dog"), resolution=SIDE).sizes()


class Harmful:
    def __reduce__(self):
        return print, ("this must not be printed",)


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.pkl"])
def test_pickled_objects_are_never_loaded(name, tmp_path, capsys):
    objects = np.array([Harmful()] * 30)
    if name == "a.pkl":
        (tmp_path / name).write_bytes(pickle.dumps(objects))
    else:
        np.savez(tmp_path / name, images=objects) if name == "a.npz" else np.save(tmp_path / name, objects)
    with pytest.raises(IgptError, match=rf"{name} is damaged or of another format"):
        ArraysSource(str(tmp_path / name)).sizes()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "images.npy"])
def test_a_truncated_file_is_named(name, tmp_path):
    np.savez(tmp_path / name, images=IMAGES) if name == "a.npz" else np.save(tmp_path / name, IMAGES)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-40])
    path = tmp_path if name == "images.npy" else tmp_path / name
    with pytest.raises(IgptError, match=rf"{name} is damaged or of another format"):
        ArraysSource(str(path)).sizes()


def test_a_text_file_is_refused_without_advice_to_load_it(tmp_path):
    (tmp_path / "a.npy").write_text("0, 1, 2")
    with pytest.raises(IgptError, match=r"a\.npy is damaged or of another format \(it is not an \.npy or \.npz file\)"):
        ArraysSource(str(tmp_path / "a.npy")).sizes()


def test_a_missing_file_and_an_empty_folder(tmp_path):
    with pytest.raises(IgptError, match=r"There are no arrays at .*nowhere\.npz; set data\.source\.path"):
        ArraysSource(str(tmp_path / "nowhere.npz")).sizes()
    with pytest.raises(IgptError, match=r"has no \.npy files; name the arrays"):
        ArraysSource(str(tmp_path)).sizes()
    for arguments in ({}, {"path": "a.npz", "arrays": SPLIT}):
        with pytest.raises(IgptError, match="either the path of a file or arrays"):
            ArraysSource(**arguments)


def test_training_on_an_npz_file_and_refusing_other_images_later(tmp_path, command):
    np.savez(tmp_path / "mine.npz", **SPLIT)
    summary = train_two_steps(command, tmp_path, "arrays", "data.source.path=mine.npz", "data.source.resolution=8")
    assert summary["test/images"] == 10
    np.savez(tmp_path / "mine.npz", **{**SPLIT, "train_images": 255 - IMAGES[:20]})
    with pytest.raises(SystemExit, match="The data of this run have changed .*other images, labels or order of them"):
        command("evaluate", "run=run")
