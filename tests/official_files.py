"""Tiny data sets in the official formats, written by other code than that of the sources."""

import io
import pickle
import struct
import tarfile

import numpy as np


def random_images(n, side, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


def tar(path, folder, files):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            information = tarfile.TarInfo(f"{folder}/{name}")
            information.size = len(content)
            archive.addfile(information, io.BytesIO(content))


class Python2Pickler(pickle._Pickler):
    """Writes bytes in the format of strings of Python 2."""

    def save_string(self, value):
        self.write(pickle.BINSTRING + struct.pack("<i", len(value)) + value)

    dispatch = {**pickle._Pickler.dispatch, bytes: save_string}  # noqa: RUF012


def python2_pickle(value):
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(value)
    return file.getvalue().replace(
        b"numpy._core.multiarray", b"numpy.core.multiarray"
    )  # the module's name before numpy 2


def cifar_part(images, labels, key):
    rows = np.stack([image[:, :, c].ravel() for image in images for c in range(3)]).reshape(len(images), 3072)
    return python2_pickle({b"data": rows, key: labels.tolist(), b"filenames": [b"a.png"] * len(images)})


def write_cifar10(folder):
    """50 training and 10 test images; returns all images and labels in this order."""
    images, labels = random_images(60, 32), np.arange(60) * 7 % 10
    starts = {f"data_batch_{i + 1}": 10 * i for i in range(5)} | {"test_batch": 50}
    parts = {
        name: cifar_part(images[start : start + 10], labels[start : start + 10], b"labels")
        for name, start in sorted(starts.items(), reverse=True)  # the order in an archive is arbitrary
    }
    tar(folder / "cifar-10-python.tar.gz", "cifar-10-batches-py", parts)
    return images, labels


def write_cifar100(folder):
    """20 training and 10 test images."""
    images, labels = random_images(30, 32), np.arange(30) * 3
    parts = {"train": slice(0, 20), "test": slice(20, 30)}
    parts = {name: cifar_part(images[rows], labels[rows], b"fine_labels") for name, rows in parts.items()}
    tar(folder / "cifar-100-python.tar.gz", "cifar-100-python", parts)
    return images, labels


def write_stl10(folder):
    """30 training and 15 test images."""
    images, labels = random_images(45, 96), np.arange(45) % 10
    columns = [image[:, column, c].tobytes() for image in images for c in range(3) for column in range(96)]
    size = 3 * 96  # columns of an image
    folds = [" ".join(str(3 * i + k % 3) for i in range(10)) + " \n" for k in range(10)]
    parts = {
        "test_X.bin": b"".join(columns[30 * size :]),
        "test_y.bin": bytes((labels[30:] + 1).tolist()),
        "train_X.bin": b"".join(columns[: 30 * size]),
        "train_y.bin": bytes((labels[:30] + 1).tolist()),
        "unlabeled_X.bin": b"",
        "class_names.txt": b"airplane\nbird\n",
        "fold_indices.txt": "".join(folds).encode(),
    }
    tar(folder / "stl10_binary.tar.gz", "stl10_binary", parts)
    return images, labels
