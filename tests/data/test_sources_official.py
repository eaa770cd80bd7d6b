"""Tiny data sets in the official formats, written by other code than the sources' own."""

import io
import json
import os
import pickle
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image

from conftest import train_two_steps
from igpt.data.sources import (
    SPLITS,
    CIFAR10Source,
    CIFAR100Source,
    HubSource,
    ImageNet32Source,
    ImageNet64Source,
    STL10Source,
    area_average,
)  # fmt: skip
from igpt.data.sources.cifar import load_arrays
from igpt.data.sources.splits import complete_splits, hold_out
from igpt.errors import IgptError
from official_files import random_images, tar, write_cifar10, write_cifar100, write_stl10


def read_all(source):
    return {split: source.read(split, 0, n) for split, n in source.sizes().items()}


def assert_splits(source, train, test, n_validation):
    """The splits are the `test` images, and the `train` images without `n_validation`; each is (images, labels)."""
    chunks = read_all(source)
    for split, expected in (("test", test), ("train+validation", train)):
        images = np.concatenate([chunks[name].images for name in split.split("+")])
        labels = np.concatenate([chunks[name].labels for name in split.split("+")])
        found = sorted((image.tobytes(), label) for image, label in zip(images, labels, strict=True))
        assert found == sorted((image.tobytes(), label) for image, label in zip(*expected, strict=True))
    assert len(chunks["validation"].labels) == n_validation
    np.testing.assert_array_equal(chunks["test"].images, test[0])  # in the original order
    for split, chunk in chunks.items():  # by ranges, and after pickling
        copy, n = pickle.loads(pickle.dumps(source)), len(chunk.labels)
        for start in range(0, n, 7):
            part = copy.read(split, start, min(start + 7, n))
            np.testing.assert_array_equal(part.images, chunk.images[start : start + 7])
            np.testing.assert_array_equal(part.labels, chunk.labels[start : start + 7])


def unpack(path):
    with tarfile.open(path) as archive:
        archive.extractall(path.parent, filter="data")
    path.unlink()


# CIFAR


@pytest.fixture
def cifar10(tmp_path):
    return tmp_path, *write_cifar10(tmp_path)


@pytest.mark.parametrize("unpacked", [False, True])
def test_cifar10(cifar10, unpacked):
    root, images, labels = cifar10
    if unpacked:
        unpack(root / "cifar-10-python.tar.gz")
    source = CIFAR10Source(root=str(root))
    assert_splits(source, (images[:50], labels[:50]), (images[50:], labels[50:]), n_validation=5)
    assert source.classes[labels[50]] == "airplane"


def test_cifar10_at_a_lower_resolution(cifar10):
    root, images, _ = cifar10
    found = CIFAR10Source(root=str(root), resolution=8).read("test", 2, 4).images
    np.testing.assert_array_equal(found, area_average(images[52:54], 8))
    with pytest.raises(IgptError, match="resolution is 20; cifar10 has images of 32x32"):
        CIFAR10Source(resolution=20)


def test_cifar100_has_its_fine_labels(tmp_path):
    images, labels = write_cifar100(tmp_path)
    source = CIFAR100Source(root=str(tmp_path))
    assert_splits(source, (images[:20], labels[:20]), (images[20:], labels[20:]), n_validation=2)
    assert len(source.classes) == 100
    assert source.classes == tuple(sorted(source.classes))


def test_full_train_includes_the_validation_images(cifar10):
    root, images, labels = cifar10
    part, full = (read_all(CIFAR10Source(root=str(root), full_train=full)) for full in (False, True))
    np.testing.assert_array_equal(full["train"].images, images[:50])
    np.testing.assert_array_equal(full["train"].labels, labels[:50])
    np.testing.assert_array_equal(full["validation"].images, part["validation"].images)


class Harmful:
    def __reduce__(self):
        return print, ("this must not be printed",)


def test_pickles_that_would_run_code_are_refused(tmp_path, capsys):
    parts = {name: pickle.dumps({b"data": Harmful()}) for name in ("train", "test")}
    tar(tmp_path / "cifar-100-python.tar.gz", "cifar-100-python", parts)
    with pytest.raises(IgptError, match=r"cifar-100-python.tar.gz is damaged .*builtins.print"):
        CIFAR100Source(root=str(tmp_path)).sizes()
    assert capsys.readouterr().out == ""
    with pytest.raises(pickle.UnpicklingError, match=r"numpy\.load"):  # nor other functions of numpy
        load_arrays(io.BytesIO(b"cnumpy\nload\n."))


def test_a_damaged_archive_is_named(cifar10):
    root, _, _ = cifar10
    path = root / "cifar-10-python.tar.gz"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(IgptError, match=r"cifar-10-python\.tar\.gz is damaged"):
        CIFAR10Source(root=str(root)).sizes()


# STL-10


@pytest.fixture
def stl10(tmp_path):
    return tmp_path, *write_stl10(tmp_path)


@pytest.mark.parametrize("unpacked", [False, True])
def test_stl10(stl10, unpacked):
    root, images, labels = stl10
    if unpacked:
        unpack(root / "stl10_binary.tar.gz")
    source = STL10Source(root=str(root), resolution=96)
    assert_splits(source, (images[:30], labels[:30]), (images[30:], labels[30:]), n_validation=3)


def test_stl10_shrinks_and_has_folds(stl10):
    root, images, labels = stl10
    images = np.rint(images.reshape(45, 32, 3, 32, 3, 3).mean(axis=(2, 4))).astype(np.uint8)
    source = STL10Source(root=str(root), fold=4)  # rows 1, 4, 7, ...
    assert_splits(source, (images[1:30:3], labels[1:30:3]), (images[30:], labels[30:]), n_validation=1)
    assert source.key() != STL10Source(root=str(root)).key()
    with pytest.raises(IgptError, match="fold is 10"):
        STL10Source(fold=10)


# ImageNet, downsampled


def write_small_imagenet(folder, images, labels, save):
    """Ten training files of ten images, of which the last is shorter, and a test file."""
    folder.mkdir(parents=True)
    rows = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    for i in range(10):
        chosen = slice(10 * i, min(10 * i + 10, 97))
        save(folder / f"train_data_batch_{i + 1}.npz", data=rows[chosen], labels=labels[chosen].tolist(), mean=rows[0])
    save(folder / "val_data.npz", data=rows[97:], labels=labels[97:].tolist())


@pytest.mark.parametrize(("kind", "side"), [(ImageNet32Source, 32), (ImageNet64Source, 64)])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_small_imagenet(tmp_path, kind, side, save):
    images, labels = random_images(107, side), np.random.default_rng(0).integers(1, 1001, 107)
    write_small_imagenet(tmp_path / f"imagenet{side}" / "unpacked", images, labels, save)
    source = kind(root=str(tmp_path))
    assert source.resolution == side
    assert_splits(source, (images[:97], labels[:97] - 1), (images[97:], labels[97:] - 1), n_validation=4)
    assert [source.classes[label] for label in source.read("test", 0, 3).labels] == [str(n) for n in labels[97:100]]


def test_a_missing_file_of_small_imagenet_is_named(tmp_path):
    images = random_images(107, 32)
    write_small_imagenet(tmp_path / "mine", images, np.ones(107, int), np.savez)
    np.testing.assert_array_equal(
        ImageNet32Source(root=str(tmp_path / "mine")).read("test", 0, 9).images, images[97:106]
    )
    (tmp_path / "mine" / "train_data_batch_7.npz").unlink()
    with pytest.raises(IgptError) as caught:
        ImageNet32Source(root=str(tmp_path / "mine")).sizes()
    for words in ("no train_data_batch_7.npz", "https://image-net.org/download-images", "Imagenet32_val_npz.zip"):
        assert words in str(caught.value)


# Splits


def test_held_out_images_are_a_share_and_depend_on_the_seed():
    pool = np.arange(100, 1100)
    kept, held = hold_out(pool, 0.04, seed=0)
    np.testing.assert_array_equal(np.sort(np.concatenate([kept, held])), pool)
    assert len(held) == 40
    assert (np.diff(kept) > 0).all()
    assert (np.diff(held) > 0).all()
    np.testing.assert_array_equal(held, hold_out(pool, 0.04, seed=0)[1])
    assert not np.array_equal(held, hold_out(pool, 0.04, seed=1)[1])
    assert 450 < held.mean() < 750  # spread over the pool: 600 expected, standard error 45


@pytest.mark.parametrize("share", [0, 1, 1.5])
def test_impossible_shares_are_refused(share):
    with pytest.raises(IgptError, match="between 0 and 1"):
        hold_out(np.arange(10), share, 0)
    with pytest.raises(IgptError, match="leaves none to train on"):
        hold_out(np.arange(1), 0.1, 0)


def test_only_missing_splits_are_held_out():
    given = {"train": np.arange(80), "validation": np.arange(80, 100)}
    splits = complete_splits(given, 0.5, 0.25, seed=0, full_train=True)
    assert {split: len(splits[split]) for split in SPLITS} == {"train": 80, "validation": 20, "test": 20}
    assert not set(splits["test"]) & set(splits["train"])
    np.testing.assert_array_equal(splits["validation"], given["validation"])


# Hugging Face


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    library = pytest.importorskip("datasets")
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(library.config, "HF_HUB_OFFLINE", True)
    library.disable_progress_bars()
    return library


def png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


@pytest.fixture
def parquet(tmp_path, datasets):
    images, labels = random_images(25, 8), np.arange(25) % 3
    encoded = [png(image) for image in images]
    encoded[24]["bytes"] = b"no image"
    features = datasets.Features(
        {
            "id": datasets.Value("int64"),
            "kind": datasets.ClassLabel(names=["cat", "dog", "ant"]),
            "word": datasets.Value("string"),
            "image": datasets.Image(),
        }
    )
    words = [("z", "y", "x")[label] for label in labels]
    files = {}
    for split, rows in {"train": slice(0, 20), "valid": slice(20, 25)}.items():
        columns = {"id": list(range(25)), "kind": labels.tolist(), "word": words, "image": encoded}
        data = datasets.Dataset.from_dict({name: values[rows] for name, values in columns.items()}, features)
        files[split] = str(tmp_path / f"{split}.parquet")
        data.to_parquet(files[split])
    return files, images, labels


def test_parquet_by_the_datasets_library(parquet):
    files, images, labels = parquet
    source = HubSource("parquet", data_files=files, resolution=8, test_share=0.2)
    assert source.sizes() == {"train": 16, "validation": 5, "test": 4}
    assert source.classes == ("cat", "dog", "ant")
    copy = pickle.loads(pickle.dumps(source))
    chunk = copy.read("validation", 1, 5)
    np.testing.assert_array_equal(chunk.images[:3], images[21:24])
    np.testing.assert_array_equal(chunk.labels, labels[21:])
    assert (chunk.images[3] == 255).all()
    assert chunk.unreadable == {3: "parquet, validation image 4: its format is unknown"}
    parts = [copy.read(split, 0, 20) for split in ("train", "test")]
    found = sorted((i.tobytes(), j) for part in parts for i, j in zip(part.images, part.labels, strict=True))
    assert found == sorted((i.tobytes(), j) for i, j in zip(images[:20], labels, strict=False))
    assert source.key() == HubSource("parquet", data_files=files, resolution=8, test_share=0.2).key()


def test_the_key_of_local_files_follows_what_is_in_them(parquet, tmp_path, datasets, monkeypatch):
    files, _, _ = parquet
    hashed, whole = [], HubSource._hash
    monkeypatch.setattr(HubSource, "_hash", lambda self, data: hashed.append(data) or whole(self, data))

    def key():
        return HubSource("parquet", data_files=files, resolution=8, cache_dir=str(tmp_path / "cache")).key()

    first = key()
    assert key() == first
    assert len(hashed) == 2
    for path in files.values():
        os.utime(path, ns=(0, 10**18))
    assert key() == first
    assert len(hashed) == 4
    data = datasets.Dataset.from_parquet(files["valid"])
    data.select([0, 1, 2, 4, 3]).to_parquet(files["valid"])
    assert {name for name, value in key().items() if value != first[name]} == {"contents"}
    assert key()["contents"]["train"] == first["contents"]["train"]


def test_parquet_with_splits_and_columns_that_are_named(parquet):
    files, _, labels = parquet
    source = HubSource(
        "parquet", data_files=files, resolution=8, label_column="word", splits={"train": "train", "test": "valid"}
    )
    assert source.classes == ("x", "y", "z")
    np.testing.assert_array_equal(source.read("test", 0, 5).labels, 2 - labels[20:])
    assert source.sizes() == {"train": 18, "validation": 2, "test": 5}
    unlabeled = HubSource("parquet", data_files=files, resolution=8, labels=False)
    assert unlabeled.classes == ()
    assert (unlabeled.read("train", 0, 5).labels == -1).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_column": "absent"}, "has 0 columns that could be data.source.image_column; name one of id, kind"),
        ({"splits": {"train": "absent"}}, "has the splits train, valid; set data.source.splits"),
        ({"data_files": "absent.parquet"}, "cannot be loaded .*absent.parquet"),
    ],
)
def test_what_the_library_cannot_load_is_named(parquet, settings, message):
    with pytest.raises(IgptError, match=message):
        HubSource(**{"path": "parquet", "data_files": parquet[0], **settings}).sizes()


def test_without_the_datasets_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(IgptError, match=r"pip install 'igpt\[hub\]'"):
        HubSource("anything").sizes()


# Training


def test_training_from_a_cifar_archive(cifar10, command, tmp_path):
    summary = train_two_steps(command, tmp_path, "cifar10", f"data.source.root={cifar10[0]}", "data/augment=cifar")
    assert summary["test/images"] == 10
    moved = tmp_path / "moved"
    moved.mkdir()
    (cifar10[0] / "cifar-10-python.tar.gz").rename(moved / "cifar-10-python.tar.gz")
    command("train", "run=run", "trainer.max_steps=3", f"data.source.root={moved}", f"data.cache_dir={tmp_path}/cache")
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 3


def test_training_from_stl10_binaries(stl10, command, tmp_path):
    summary = train_two_steps(command, tmp_path, "stl10", f"data.source.root={stl10[0]}", "tokenizer=gray")
    assert summary["test/images"] == 15


def test_training_from_small_imagenet(tmp_path, command):
    write_small_imagenet(tmp_path / "imagenet32", random_images(107, 32), np.arange(1, 108), np.savez_compressed)
    summary = train_two_steps(command, tmp_path, "imagenet32", f"data.source.root={tmp_path}", "order=hilbert")
    assert summary["test/images"] == 10


def test_training_from_parquet(parquet, command, tmp_path):
    files = ",".join(f"{split}:'{path}'" for split, path in parquet[0].items())
    source = ("data.source.path=parquet", f"+data.source.data_files={{{files}}}", "data.max_unreadable=0.1")
    summary = train_two_steps(command, tmp_path, "hub", *source)
    assert summary["test/images"] == 2
