import dataclasses
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from conftest import ended, together, wait_until
from igpt.data.datamodule import cache_errors
from igpt.data.packed import checksums, open_packed, pack, packed_folder, packing, shards
from igpt.data.sources import SPLITS, Chunk, EmojiSource
from igpt.errors import IgptError
from igpt.files import sha256


@pytest.fixture
def source():
    return EmojiSource(resolution=8)


def test_packed_images_equal_those_of_the_source(tmp_path, source):
    splits = open_packed(pack(source, tmp_path))
    for split in SPLITS:
        chunk = source.read(split, 0, source.sizes()[split])
        np.testing.assert_array_equal(splits[split].images, chunk.images)
        np.testing.assert_array_equal(splits[split].labels, chunk.labels)
        np.testing.assert_array_equal(splits[split].groups, chunk.groups)
    assert isinstance(splits["train"].images, np.memmap)


def test_packing_happens_once_per_settings(tmp_path, source):
    folder = pack(source, tmp_path)
    before = (folder / "manifest.json").stat().st_mtime_ns
    assert pack(source, tmp_path) == folder
    assert (folder / "manifest.json").stat().st_mtime_ns == before
    assert pack(EmojiSource(resolution=16), tmp_path) != folder


@dataclass(frozen=True)
class Numbered:
    """Images whose bytes all equal their index; some are unreadable."""

    n: int = 10
    unreadable: tuple[int, ...] = ()
    resolution: int = 4
    name: str = "numbered"
    classes: tuple[str, ...] = ("even", "odd")

    def key(self):
        return {"n": self.n, "unreadable": list(self.unreadable)}

    def sizes(self):
        return {"train": self.n, "validation": 3, "test": 2}

    def read(self, split, start, stop):
        numbers = np.arange(start, stop)
        images = np.broadcast_to(numbers.astype(np.uint8)[:, None, None, None], (len(numbers), 4, 4, 3))
        bad = {i - start: f"{i}.png: broken" for i in self.unreadable if split == "train" and start <= i < stop}
        return Chunk(images, numbers % 2, bad, np.where(numbers < 4, 7, -1))


def test_packing_in_parallel_keeps_the_order(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_SIZE", 1)
    train = open_packed(pack(Numbered(), tmp_path, processes=2))["train"]
    np.testing.assert_array_equal(train.images[:, 0, 0, 0], np.arange(10))
    np.testing.assert_array_equal(train.labels, np.arange(10) % 2)
    assert train.groups[:4].tolist() == [7] * 4
    assert len(set(train.groups[4:])) == 6  # each image without a group has its own
    assert train.groups[4:].max() < 0


def test_packing_resumes_after_the_last_finished_shard(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_SIZE", 2)
    read, asked = Numbered.read, []

    def killed_at_the_fourth(self, split, start, stop):
        asked.append((split, start))
        if len(asked) == 4:
            raise KeyboardInterrupt
        return read(self, split, start, stop)

    monkeypatch.setattr(Numbered, "read", killed_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        pack(Numbered(), tmp_path, processes=1)
    with pytest.raises(IgptError, match="no readable"):
        open_packed(packed_folder(Numbered(), tmp_path))
    train = open_packed(pack(Numbered(), tmp_path, processes=1))["train"]
    assert [a for a in asked if a[0] == "train"] == [("train", n) for n in (0, 2, 4, 6, 6, 8)]
    np.testing.assert_array_equal(train.images[:, 0, 0, 0], np.arange(10))
    assert {p.name for p in packed_folder(Numbered(), tmp_path).iterdir()} == {
        "manifest.json", *(f"{s}.{what}.npy" for s in SPLITS for what in ("images", "labels", "groups"))
    }  # fmt: skip


def test_unreadable_images_are_left_out_and_listed(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(shards, "SHARD_SIZE", 4)
    source = Numbered(unreadable=(1, 7))
    folder = pack(source, tmp_path, max_unreadable=0.2)
    train = open_packed(folder)["train"]
    kept = [0, 2, 3, 4, 5, 6, 8, 9]
    np.testing.assert_array_equal(train.images[:, 0, 0, 0], kept)
    np.testing.assert_array_equal(train.labels, np.array(kept) % 2)
    assert (folder / "unreadable.txt").read_text() == "1.png: broken\n7.png: broken\n"
    assert "2 of 15 images cannot be read" in caplog.text


def test_too_many_unreadable_images_stop_the_packing(tmp_path):
    source = Numbered(unreadable=(1, 7))
    with pytest.raises(IgptError, match=r"2 of 15 images.*data\.max_unreadable=0\.1.*the first is 1\.png: broken"):
        pack(source, tmp_path, max_unreadable=0.1)
    (report,) = (tmp_path / "packed").glob("*.unreadable.txt")
    assert report.read_text().splitlines() == ["1.png: broken", "7.png: broken"]
    assert not packed_folder(source, tmp_path).exists()


def test_a_split_without_a_readable_image_names_the_report(tmp_path):
    with pytest.raises(IgptError, match=r"No train image is left without those that cannot be read \(see") as caught:
        pack(Numbered(n=2, unreadable=(0, 1)), tmp_path, max_unreadable=1)
    report = str(caught.value).partition("see ")[2].partition(")")[0]
    assert Path(report).read_text().splitlines() == ["0.png: broken", "1.png: broken"]


def test_a_source_that_reads_too_few_images_is_refused(tmp_path):
    class Short(Numbered):
        def read(self, split, start, stop):
            return super().read(split, start, stop - 1)

    with pytest.raises(IgptError, match="read 9 images and 9 labels for images 0 to 10 of its train split"):
        pack(Short(), tmp_path)


class Fails(Numbered):
    def read(self, split, start, stop):
        raise IgptError("An archive is damaged.")


@pytest.mark.parametrize(
    "refused", [Numbered(unreadable=(1, 7)), Numbered(n=2, unreadable=(0, 1)), Numbered(n=0), Fails()]
)
def test_a_refused_packing_leaves_nothing_but_the_report(refused, tmp_path):
    with pytest.raises(IgptError):
        pack(refused, tmp_path, max_unreadable=1 if refused.n == 2 else 0.1)
    left = {path.name.removeprefix(packed_folder(refused, tmp_path).name) for path in (tmp_path / "packed").iterdir()}
    assert left <= {".lock", ".unreadable.txt"}


def test_an_empty_split_is_refused(tmp_path):
    with pytest.raises(IgptError, match="'numbered' has no train images"):
        pack(Numbered(n=0), tmp_path)


def test_the_manifest_has_the_checksums(tmp_path):
    folder = pack(Numbered(), tmp_path)
    files = json.loads((folder / "manifest.json").read_text())["files"]
    assert len(files) == 9
    assert all(hashlib.sha256((folder / f).read_bytes()).hexdigest() == about["sha256"] for f, about in files.items())


def truncate(folder):
    path = folder / "train.images.npy"
    path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, r"train\.images\.npy has 1000 bytes instead of"),
        (lambda folder: (folder / "test.labels.npy").unlink(), r"lacks .*test\.labels\.npy"),
        (lambda folder: (folder / "manifest.json").write_text("{"), r"no readable .*manifest\.json"),
    ],
)
def test_damaged_data_is_named(tmp_path, source, damage, message):
    folder = pack(source, tmp_path)
    damage(folder)
    with pytest.raises(IgptError, match=message + ".*delete the folder"):
        open_packed(folder)


# Checksums


def flip_a_byte(path, keep_time=False):
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(-5, 2)
        byte = file.read(1)
        file.seek(-5, 2)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns if keep_time else before.st_mtime_ns + 10**6))


@pytest.mark.parametrize("keep_time", [True, False])
@pytest.mark.parametrize("name", ["train.images.npy", "test.labels.npy", "validation.groups.npy"])
def test_a_flipped_byte_is_found_and_its_file_named(tmp_path, source, name, keep_time):
    folder = pack(source, tmp_path)
    flip_a_byte(folder / name, keep_time)
    for _ in range(2):  # also the second time
        with pytest.raises(IgptError, match=rf"{re.escape(name)} is wrong.*delete the folder"):
            pack(source, tmp_path)


def test_checksums_are_verified_once_per_machine_and_change(tmp_path, source, monkeypatch):
    folder, read = pack(source, tmp_path), []
    monkeypatch.setattr(checksums, "sha256", lambda path: read.append(path.name) or sha256(path))
    pack(source, tmp_path)
    assert read == []  # packing has just computed the checksums
    (folder / "test.images.npy").touch()
    pack(source, tmp_path)
    assert sorted(read) == sorted(path.name for path in folder.glob("*.npy"))
    pack(source, tmp_path)
    assert len(read) == 9
    monkeypatch.setattr("socket.gethostname", lambda: "another")
    pack(source, tmp_path)
    pack(source, tmp_path)
    assert len(read) == 18


def test_one_of_several_processes_verifies(tmp_path, source, monkeypatch):
    folder = pack(source, tmp_path)
    (folder / "test.images.npy").touch()
    read = []
    monkeypatch.setattr(checksums, "sha256", lambda path: read.append(path.name) or sha256(path))
    monkeypatch.setattr(checksums, "_is_verified", together(checksums._is_verified, 8))
    with ThreadPoolExecutor(8) as pool:  # file locks hold between threads, too
        list(pool.map(lambda _: pack(source, tmp_path), range(8)))
    assert len(read) == 9


def test_a_copied_cache_is_verified(tmp_path, source):
    pack(source, tmp_path / "cache")
    shutil.copytree(tmp_path / "cache", tmp_path / "copy")  # which keeps the times
    flip_a_byte(packed_folder(source, tmp_path / "copy") / "train.images.npy", keep_time=True)
    with pytest.raises(IgptError, match="train.images.npy is wrong"):
        pack(source, tmp_path / "copy")


def test_a_complete_cache_that_cannot_be_written_needs_no_lock(tmp_path, source, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = pack(source, tmp_path / "cache")
    shutil.rmtree(tmp_path / "cache" / "packed" / "verified")
    before = sorted(tmp_path.glob("cache/**/*"))

    mkdir = os.mkdir

    def refused(path, mode=0o777):  # the tests may run as root, who may write anywhere
        if (tmp_path / "cache") in Path(path).parents:
            raise PermissionError(13, "Permission denied", str(path))
        mkdir(path, mode)

    monkeypatch.setattr(os, "mkdir", refused)
    monkeypatch.setattr(packing, "FileLock", None)
    read = []
    monkeypatch.setattr(checksums, "sha256", lambda path: read.append(path.name) or sha256(path))
    for _ in range(2):
        assert pack(source, tmp_path / "cache") == folder
    assert len(read) == 9  # remembered in the user's own cache
    assert sorted(tmp_path.glob("cache/**/*")) == before


# Duplicates


@dataclass(frozen=True)
class Levels:
    """Gray images with these levels; at a resolution of 2, levels of the same decade become equal."""

    train: tuple[int, ...] = (10, 20, 30, 41, 20, 50)
    validation: tuple[int, ...] = (60, 20, 70)
    test: tuple[int, ...] = (30, 40, 70, 80)
    resolution: int = 4
    name: str = "levels"
    classes: tuple[str, ...] = ()
    full_train: bool = False

    def key(self):
        return dataclasses.asdict(self)

    def sizes(self):
        return {split: len(getattr(self, split)) for split in SPLITS}

    def read(self, split, start, stop):
        levels = np.array(getattr(self, split)[start:stop], np.uint8)
        if self.resolution == 2:
            levels -= levels % 10
        shape = (len(levels), self.resolution, self.resolution, 3)
        unreadable = {i: "white.png: broken" for i, level in enumerate(levels) if level == 255}
        images = np.broadcast_to(levels[:, None, None, None], shape)
        return Chunk(images, np.full(len(levels), -1), unreadable)


def packed_levels(source, tmp_path, **settings):
    splits = open_packed(pack(source, tmp_path, max_unreadable=0.5, **settings))
    return [splits[split].images[:, 0, 0, 0].tolist() for split in SPLITS]


def test_duplicates_are_counted(tmp_path, caplog):
    assert packed_levels(Levels(), tmp_path) == [list(Levels().train), list(Levels().validation), list(Levels().test)]
    assert (
        "levels: images that occur in two splits at 4x4: 3 of train in validation or test, 1 of validation in test; "
        "data.drop_duplicates=true leaves them out."
    ) in caplog.text


def test_duplicates_are_dropped_from_the_training_side(tmp_path, caplog):
    assert packed_levels(Levels(), tmp_path, drop_duplicates_at=4) == [[10, 41, 50], [60, 20], [30, 40, 70, 80]]
    assert "they are left out" in caplog.text
    assert packed_folder(Levels(), tmp_path, 4) != packed_folder(Levels(), tmp_path)


def test_unreadable_images_are_not_duplicates(tmp_path, caplog):
    source = Levels(train=(1, 255, 2), validation=(255, 4), test=(255, 5))
    assert packed_levels(source, tmp_path, drop_duplicates_at=4) == [[1, 2], [4], [5]]
    assert "two splits" not in caplog.text


def test_validation_images_that_are_trained_on_are_not_duplicates(tmp_path):
    source = Levels(train=(1, 2, 3), validation=(2,), test=(3,), full_train=True)
    assert packed_levels(source, tmp_path, drop_duplicates_at=4) == [[1, 2], [2], [3]]


def test_duplicates_are_compared_at_the_resolution_of_the_model(tmp_path):
    small = Levels(resolution=2)
    assert packed_levels(small, tmp_path, drop_duplicates_at=2)[0] == [10, 50]
    assert packed_levels(Levels(), tmp_path, drop_duplicates_at=2)[0] == [
        10,
        50,
    ]  # at the resolution of the model, 41 is 40


def test_packing_that_is_killed_while_it_drops_duplicates_drops_the_same(tmp_path, monkeypatch):
    keep_rows, kept = packing.keep_rows, []

    def killed_at_the_second(path, rows):
        kept.append(path)
        if len(kept) == 2:
            raise KeyboardInterrupt
        keep_rows(path, rows)

    source = Levels(train=(10, 255, 20, 30, 41, 20, 50))
    monkeypatch.setattr(packing, "keep_rows", killed_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        pack(source, tmp_path, max_unreadable=0.5, drop_duplicates_at=4)
    assert packed_levels(source, tmp_path, drop_duplicates_at=4) == [[10, 41, 50], [60, 20], [30, 40, 70, 80]]


def test_a_split_without_any_image_left_is_refused(tmp_path):
    with pytest.raises(IgptError, match=r"No train image is left .*data\.drop_duplicates=true drops"):
        pack(Levels(train=(30, 20)), tmp_path, drop_duplicates_at=4)


def test_chosen_images_are_of_the_requested_class(tmp_path, source):
    split = open_packed(pack(source, tmp_path))["test"]
    chosen = split.choose(3, label=8)
    of_class = split.images[split.labels == 8]
    assert len(chosen) == 3
    assert all((image == of_class).all(axis=(1, 2, 3)).any() for image in chosen)
    with pytest.raises(IgptError, match="class 99"):
        split.choose(3, label=99)


PACK = """
import os, sys, time
from dataclasses import dataclass
from pathlib import Path
import numpy as np
from igpt.data.packed import pack, shards
from igpt.data.sources import Chunk
from igpt.cluster.signals import stop_signals

@dataclass(frozen=True)
class Slow:
    folder: Path
    resolution: int = 2
    name: str = "slow"
    classes: tuple = ("all",)

    def key(self):
        return {}

    def sizes(self):
        return {"train": 40, "validation": 1, "test": 1}

    def read(self, split, start, stop):
        (self.folder / f"{os.getpid()}.pid").touch()
        time.sleep(0.1)
        return Chunk(np.full((stop - start, 2, 2, 3), start, np.uint8), np.zeros(stop - start, np.int64), {})

if __name__ == "__main__":
    shards.SHARD_SIZE = 1
    with stop_signals.listen():
        pack(Slow(Path(sys.argv[1])), Path(sys.argv[1]), processes=2)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR2, signal.SIGKILL])
def test_packing_processes_leave_signals_to_the_main_process_and_end_with_it(tmp_path, number, terminal):
    script = tmp_path / "script.py"
    script.write_text(PACK)
    command = [sys.executable, script, tmp_path]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_until(lambda: len(list(tmp_path.glob("*.pid"))) == 2 or process.poll() is not None)
    if number == signal.SIGKILL:
        process.kill()
        assert process.wait() == -signal.SIGKILL
    else:
        os.killpg(process.pid, number)
        errors = process.communicate()[1]
        assert process.returncode == 130, errors
        assert "Traceback" not in errors
    packers = [int(path.stem) for path in tmp_path.glob("*.pid")]
    wait_until(lambda: all(map(ended, packers)))
    done = len(list((tmp_path / "packed").glob("*.part/journal/train-*.json")))
    assert 0 < done < 40
    subprocess.run(command, check=True)
    (file,) = (tmp_path / "packed").glob("*/train.images.npy")
    np.testing.assert_array_equal(open_packed(file.parent)["train"].images[:, 0, 0, 0], np.arange(40))


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        ("/data/groups.csv", "/data/groups.csv cannot be used (Permission denied); check the path"),
        ("/cache/images.npy", "The cache at /cache cannot be written"),
        (None, "The cache at /cache cannot be written"),
    ],
)
def test_only_errors_in_the_cache_blame_the_cache(file, sentence):
    error = PermissionError(13, "Permission denied") if file is None else PermissionError(13, "Permission denied", file)
    with pytest.raises(IgptError) as caught, cache_errors(Path("/cache")):
        raise error
    assert str(caught.value).startswith(sentence)
