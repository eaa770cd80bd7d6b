"""MNIST and Fashion-MNIST: IDX files written by hand, found in all their places, and damaged in all ways."""

import gzip
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

from conftest import train_two_steps
from igpt.data.sources import FashionMNISTSource, MNISTSource
from igpt.errors import IgptError

IMAGES = np.random.default_rng(0).integers(0, 256, (50, 28, 28), dtype=np.uint8)
LABELS = np.arange(50) * 7 % 10
N_TRAIN = 40
DAMAGES = {
    "wrong magic number": (lambda data: struct.pack(">I", 2049) + data[4:], "its magic number is 2049 instead of 2051"),
    "truncated": (lambda data: data[:-1], "it has 31375 bytes instead of the 31376 that its header states"),
    "longer": (lambda data: data + b"1", "it has 31377 bytes instead of the 31376 that its header states"),
    "other size": (lambda data: data[:8] + struct.pack(">II", 32, 32) + data[16:], "items of shape (32, 32) instead"),
    "part of a header": (lambda data: data[:6], "it ends within its header"),
    "empty": (lambda data: b"", "its magic number is 0"),
}


@pytest.fixture(autouse=True)
def few_images(monkeypatch):
    """Files of 50 images pass for the official ones."""
    for kind in (MNISTSource, FashionMNISTSource):
        monkeypatch.setattr(kind, "counts", {"train": N_TRAIN, "t10k": 50 - N_TRAIN})


def write_idx(folder, images=IMAGES, labels=LABELS, n_train=N_TRAIN, compressed=True):
    """The four files; `images` and `labels` of training and test are concatenated."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, rows in (("train", slice(0, n_train)), ("t10k", slice(n_train, None))):
        contents = {
            f"{part}-images-idx3-ubyte": struct.pack(">IIII", 0x803, len(images[rows]), 28, 28)
            + images[rows].tobytes(),
            f"{part}-labels-idx1-ubyte": struct.pack(">II", 0x801, len(labels[rows])) + bytes(labels[rows].tolist()),
        }
        for name, content in contents.items():
            path = folder / f"{name}.gz" if compressed else folder / name
            path.write_bytes(gzip.compress(content) if compressed else content)
    return folder


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize(
    ("kind", "folder"),
    [(MNISTSource, "mnist"), (MNISTSource, "MNIST/raw"), (FashionMNISTSource, "FashionMNIST/raw")],
)
def test_every_image_is_read_with_its_label(tmp_path, kind, folder, compressed):
    write_idx(tmp_path / folder, compressed=compressed)
    source = kind(root=str(tmp_path))
    assert source.origin == str(tmp_path / folder)
    assert source.sizes() == {"train": 36, "validation": 4, "test": 10}
    test = source.read("test", 0, 10)
    np.testing.assert_array_equal(test.images, np.stack([IMAGES[N_TRAIN:]] * 3, axis=-1))
    np.testing.assert_array_equal(test.labels, LABELS[N_TRAIN:])
    others = [source.read(split, 0, n) for split, n in (("train", 36), ("validation", 4))]
    found = {(i[..., 1].tobytes(), j) for part in others for i, j in zip(part.images, part.labels, strict=True)}
    assert found == {(i.tobytes(), j) for i, j in zip(IMAGES[:N_TRAIN], LABELS[:N_TRAIN], strict=True)}


@pytest.mark.parametrize("resolution", [14, 7])
def test_lower_resolutions_are_averages_over_blocks(tmp_path, resolution):
    write_idx(tmp_path / "mnist")
    images = MNISTSource(root=str(tmp_path), resolution=resolution).read("test", 0, 10).images
    block = 28 // resolution
    for row, column in ((0, 0), (3, 5)):
        pixels = IMAGES[N_TRAIN:, row * block : (row + 1) * block, column * block : (column + 1) * block]
        expected = np.rint(pixels.reshape(10, -1).mean(axis=1))
        np.testing.assert_array_equal(images[:, row, column], np.stack([expected] * 3, axis=-1))


def test_fashion_mnist_of_debian_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(FashionMNISTSource, "system", (str(tmp_path / "debian"),))
    write_idx(tmp_path / "debian")
    source = FashionMNISTSource(root=str(tmp_path / "empty"))
    assert source.origin == str(tmp_path / "debian")
    assert source.classes[source.read("test", 0, 1).labels[0]] == "T-shirt/top"
    write_idx(tmp_path / "empty" / "fashion_mnist", images=IMAGES[::-1])  # the user's own files come first
    np.testing.assert_array_equal(source.read("test", 0, 1).images[0, ..., 0], IMAGES[9])


def test_a_missing_file_is_downloaded_with_its_checksum(tmp_path, monkeypatch):
    asked = []

    def download(name, url, checksum, root):
        asked.append((name, url, checksum))
        return Path(shutil.copy(write_idx(tmp_path / "server") / name, root))

    monkeypatch.setattr("igpt.data.sources.mnist.find_or_download", download)
    folder = write_idx(tmp_path / "data" / "mnist")
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    MNISTSource(root=str(tmp_path / "data")).sizes()
    assert ("t10k-labels-idx1-ubyte.gz", "https://ossci-datasets.s3.amazonaws.com/mnist/t10k-labels-idx1-ubyte.gz",
            "md5:ec29112dd5afa0611ce80d1b7f02629c") in asked  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named_with_its_damage(tmp_path, damage):
    path = write_idx(tmp_path / "mnist", compressed=False) / "train-images-idx3-ubyte"
    change, sentence = DAMAGES[damage]
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(IgptError) as caught:
        MNISTSource(root=str(tmp_path)).sizes()
    assert str(caught.value).startswith(f"{path} is damaged or of another format (")
    assert sentence in str(caught.value)


def test_a_truncated_archive_is_named(tmp_path):
    path = write_idx(tmp_path / "mnist") / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(IgptError, match=r"train-images-idx3-ubyte\.gz is damaged"):
        MNISTSource(root=str(tmp_path)).sizes()


def test_labels_that_do_not_belong_are_refused(tmp_path):
    write_idx(tmp_path / "a" / "mnist", labels=np.where(np.arange(50) == 3, 10, LABELS))
    with pytest.raises(IgptError, match=r"it has the label 10, but the classes are 0 to 9"):
        MNISTSource(root=str(tmp_path / "a")).sizes()
    write_idx(tmp_path / "b" / "mnist", labels=LABELS[:49])
    with pytest.raises(IgptError, match=r"it has 9 labels for 10 images"):
        MNISTSource(root=str(tmp_path / "b")).sizes()


def test_another_number_of_images_is_refused(tmp_path, monkeypatch):
    monkeypatch.undo()
    write_idx(tmp_path / "mnist")
    with pytest.raises(IgptError, match=r"train-images.* has 40 images instead of the official 60000"):
        MNISTSource(root=str(tmp_path)).sizes()


def test_the_key_follows_what_is_in_the_files_and_not_their_compression(tmp_path):
    def key(**content):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        write_idx(folder / "mnist", **content)
        return MNISTSource(root=str(folder)).key()

    original = key()
    assert key(compressed=False) == original
    other = IMAGES.copy()
    other[45, 3, 2] ^= 1  # of a test image
    assert key(images=other) != original
    assert key(labels=np.roll(LABELS, 1)) != original


def test_training_on_fashion_mnist_as_gray_levels(tmp_path, command):
    write_idx(tmp_path / "data" / "fashion_mnist")
    root = f"data.source.root={tmp_path / 'data'}"
    summary = train_two_steps(command, tmp_path, "fashion_mnist", root, "data.source.resolution=7", "tokenizer=gray")
    assert summary["test/images"] == 10
