"""Whole photos: random crops of them equal Pillow's, and packing them is as safe as packing squares."""

import itertools
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from igpt import counter_rng
from igpt.data.augment import COLUMN, ROW, SIDE, ImageNetCrop, resize_crops
from igpt.data.datamodule import ImageDataModule
from igpt.data.loader import BatchLoader
from igpt.data.packed import open_packed, open_photos, pack, packed_folder, packing, shards
from igpt.data.photo_windows import PhotoWindows
from igpt.data.sources import SPLITS, ImageFolderSource, WholePhotos
from igpt.data.stream import Share, TrainingStream
from igpt.errors import IgptError

SHAPES = (  # width, height
    (500, 375), (375, 500), (64, 64), (100, 101), (101, 100), (640, 65), (65, 640), (33, 31), (20, 3), (3, 20), (1, 37),
    (997, 211),
)  # fmt: skip


def photo(width, height, seed):
    """A smooth pattern with noise."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((width, height))
    return Image.fromarray(
        np.clip(np.asarray(coarse) + rng.integers(-40, 40, (height, width, 3)), 0, 255).astype(np.uint8)
    )


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Twelve photos in the training split and three in each other."""
    folder = tmp_path_factory.mktemp("photos")
    for split, shapes in {"train": SHAPES, "val": SHAPES[:3], "test": SHAPES[3:6]}.items():
        (folder / split).mkdir()
        for i, shape in enumerate(shapes):
            photo(*shape, seed=i + 100 * len(split)).save(folder / split / f"{i:02}.png")
    return folder


@pytest.fixture
def copied(photos, tmp_path):
    return shutil.copytree(photos, tmp_path / "photos")


def source(folder, resolution=40, **settings):
    return WholePhotos(ImageFolderSource(str(folder), resolution=resolution, **settings))


def train_photos(folder, cache, resolution=40):
    return open_photos(pack(source(folder, resolution), cache))["train"]


def resized(image, side):
    """The photo with this shorter side, by Pillow alone."""
    size = [round(length * side / min(image.size)) for length in image.size]
    reduces = min(image.size) >= side
    return image.resize(size, Image.Resampling.HAMMING if reduces else Image.Resampling.BICUBIC)


def paper_box(width, height, seed, epoch, index, smallest, largest, crop):
    """The paper's crop, in pixels of a stored photo: step by step, for one photo."""

    def random(stream):
        return counter_rng.uniform(seed, *(torch.tensor(c) for c in (stream, epoch, index))).item()

    side = smallest + int(random(SIDE) * (largest - smallest + 1))
    new_width, new_height = side * width // min(width, height), side * height // min(width, height)
    left, upper = int(random(COLUMN) * (new_width - crop + 1)), int(random(ROW) * (new_height - crop + 1))
    across, down = width / new_width, height / new_height
    return left * across, upper * down, (left + crop) * across, (upper + crop) * down


def views(windows, index, epoch):
    batch = windows.fetch(np.array(index), np.array(epoch))
    return resize_crops(batch.images, windows.augment.resolution, batch.crops)


@pytest.mark.parametrize(
    ("stored", "resolution", "shorter_side", "crop"),
    [(64, 32, (256, 384), 224), (40, 16, (256, 384), 224), (20, 12, (8, 8), 8), (6, 2, (256, 384), 224)],
)
def test_crops_of_photos_of_all_shapes_equal_pillows(photos, tmp_path, stored, resolution, shorter_side, crop):
    augment = ImageNetCrop(resolution, shorter_side, crop)
    windows = PhotoWindows(train_photos(photos, tmp_path, stored), augment, seed=3)
    for epoch in range(6):
        ours = views(windows, range(12), [epoch] * 12).numpy().astype(int)
        for index, file in enumerate(sorted((photos / "train").iterdir())):
            image = resized(Image.open(file), stored)
            box = paper_box(*image.size, 3, epoch, index, *shorter_side, crop)
            theirs = image.resize((resolution, resolution), Image.Resampling.BILINEAR, box)
            assert np.abs(ours[index] - np.asarray(theirs)).max() <= 1, (SHAPES[index], epoch, box)


@pytest.mark.parametrize("index", [0, 1])
def test_crops_reach_both_ends_of_the_longer_side(photos, tmp_path, index):
    windows = PhotoWindows(train_photos(photos, tmp_path), ImageNetCrop(16, (5, 5), 4), seed=0)
    crops = windows.fetch(np.full(300, index), np.arange(300)).crops
    upper, lower = (crops.boxes[:, i] - crops.rows[:, 0] for i in (1, 3))
    assert upper.min() == 0
    assert lower.max() == (crops.rows[:, 1] - crops.rows[:, 0]).max() == 53


def test_a_view_depends_on_seed_epoch_and_index_alone(photos, tmp_path):
    split = train_photos(photos, tmp_path)
    windows = PhotoWindows(split, ImageNetCrop(16), seed=0)
    index, epoch = np.arange(48) % 12, np.arange(48) // 12
    together = views(windows, index, epoch)
    assert len({view.numpy().tobytes() for view in together}) == 48
    assert not torch.equal(views(PhotoWindows(split, ImageNetCrop(16), seed=1), index, epoch), together)
    some = np.random.default_rng(0).permutation(48)[:7]
    assert torch.equal(views(windows, index[some], epoch[some]), together[some])


def test_batches_of_photos_do_not_depend_on_workers_processes_or_resumes(photos, tmp_path):
    windows = PhotoWindows(train_photos(photos, tmp_path), ImageNetCrop(16), seed=0)
    stream = TrainingStream(windows, Share(8), seed=0)
    expected = [resize_crops(b.images, 16, b.crops) for b in itertools.islice(stream, 9)]
    for loader in (BatchLoader(stream, num_workers=2, pin_memory=False), stream):
        for theirs, batch in zip(expected, loader, strict=False):
            assert torch.equal(resize_crops(batch.images, 16, batch.crops), theirs)
    resumed = TrainingStream(windows, Share(8), seed=0, start=5)
    for theirs, batch in zip(expected[5:], resumed, strict=False):
        assert torch.equal(resize_crops(batch.images, 16, batch.crops), theirs)
    halves = [TrainingStream(windows, Share(8, rank, world_size=2), seed=0) for rank in (0, 1)]
    for theirs, *parts in zip(expected, *halves, strict=False):
        assert torch.equal(torch.cat([resize_crops(b.images, 16, b.crops) for b in parts]), theirs)


# Packing


def test_packed_photos_are_whole(photos, tmp_path):
    splits = open_photos(pack(source(photos), tmp_path))
    assert [len(splits[split]) for split in SPLITS] == [12, 3, 3]
    for ours, file in zip(splits["train"], sorted((photos / "train").iterdir()), strict=True):
        np.testing.assert_array_equal(ours, resized(Image.open(file), 40))
    assert isinstance(splits["train"].rows, np.memmap)
    assert splits["train"].labels.tolist() == [-1] * 12
    squares = ImageFolderSource(str(photos), resolution=40)
    assert packed_folder(squares, tmp_path) != packed_folder(source(photos), tmp_path)


def assert_equal_photos(ours, theirs):
    for split in SPLITS:
        for one, other in zip(ours[split], theirs[split], strict=True):
            np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(ours[split].groups, theirs[split].groups)


def test_packing_photos_in_parallel_keeps_the_order(photos, tmp_path, monkeypatch):
    at_once = open_photos(pack(source(photos), tmp_path / "a"))
    monkeypatch.setattr(shards, "SHARD_SIZE", 2)
    monkeypatch.setattr(shards, "SHARDS_PER_PROCESS", 1)
    assert_equal_photos(open_photos(pack(source(photos), tmp_path / "b", processes=2)), at_once)


@pytest.mark.parametrize("interrupted", ["append_rows", "finish_growing_array", "keep_rows"])
def test_packing_of_photos_that_was_killed_resumes(photos, tmp_path, monkeypatch, interrupted):
    expected = open_photos(pack(source(photos), tmp_path / "undisturbed"))
    monkeypatch.setattr(shards, "SHARD_SIZE", 2)
    module = packing if interrupted == "keep_rows" else shards
    done, function = [], getattr(module, interrupted)

    def killed_at_the_second(path, *arguments):
        done.append(path)
        if len(done) == 2:
            with path.open("ab") as file:
                file.write(b"half a row" if interrupted == "append_rows" else b"")
            raise KeyboardInterrupt
        return function(path, *arguments)

    monkeypatch.setattr(module, interrupted, killed_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        pack(source(photos), tmp_path / "killed", processes=1)
    folder = pack(source(photos), tmp_path / "killed", processes=1)
    assert_equal_photos(open_photos(folder), expected)
    assert {path.name for path in folder.iterdir()} == {
        "manifest.json", *(f"{s}.{what}.npy" for s in SPLITS for what in ("images", "places", "labels", "groups"))
    }  # fmt: skip


def test_photos_that_cannot_be_read_or_are_too_thin_are_left_out_and_listed(copied, tmp_path):
    (copied / "train" / "03.png").write_text("no image")
    Image.new("RGB", (1, 101)).save(copied / "train" / "05.png")
    Image.new("RGB", (100, 1)).save(copied / "train" / "07.png")  # long, but not too long
    folder = pack(source(copied), tmp_path, max_unreadable=0.2)
    found = open_photos(folder)["train"]
    kept = [index for index in range(12) if index not in (3, 5)]
    for ours, index in zip(found, kept, strict=True):
        np.testing.assert_array_equal(ours, resized(Image.open(copied / "train" / f"{index:02}.png"), 40))
    assert (folder / "unreadable.txt").read_text() == (
        f"{copied}/train/03.png: its format is unknown\n"
        f"{copied}/train/05.png: at 1x101 pixels it is more than 100 times as long as wide\n"
    )


def test_duplicates_among_photos_are_counted_and_dropped(copied, tmp_path, caplog):
    shutil.copy(copied / "test" / "01.png", copied / "train" / "20.png")
    # A wide and a high photo of one color have the same bytes, but are no duplicates.
    for name, shape in {"train/21.png": (80, 40), "test/21.png": (40, 80)}.items():
        Image.new("RGB", shape, "red").save(copied / name)
    pack(source(copied), tmp_path)
    assert "two splits as whole photos of 40 pixels: 1 of train in validation or test" in caplog.text
    squares = ImageFolderSource(str(copied), resolution=16)
    pack(squares, tmp_path, drop_duplicates_at=16)
    found = open_photos(pack(source(copied), tmp_path, drop_duplicates_at=16))["train"]
    assert (
        len(found) == len(open_packed(packed_folder(squares, tmp_path, 16))["train"]) == 12
    )  # the red squares are equal
    np.testing.assert_array_equal(list(found)[11], resized(Image.open(copied / "train" / "11.png"), 40))


@pytest.mark.parametrize("name", ["train.images.npy", "test.places.npy"])
def test_damaged_photos_are_found(photos, tmp_path, name):
    folder = pack(source(photos), tmp_path)
    content = bytearray((folder / name).read_bytes())
    content[-5] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(IgptError, match=f"checksum of .*{name} is wrong"):
        pack(source(photos), tmp_path)
    (folder / name).write_bytes(content[:-1])
    with pytest.raises(IgptError, match=f"{name} has .* bytes instead of"):
        open_photos(folder)


# The data module


def test_training_crops_whole_photos_and_evaluation_takes_center_squares(photos, tmp_path):
    from igpt.tokenizers import RGB

    squares = ImageFolderSource(str(photos), resolution=16)
    data = ImageDataModule(
        squares, 12, str(tmp_path), augment=ImageNetCrop(16), stored_resolution=40, drop_duplicates=True, seed=5,
        tokenizer=RGB(),
    )  # fmt: skip
    data.prepare_data()
    data.setup()
    batch = next(iter(data.train_dataloader()))
    ours = data.tokenizer.decode(data.tokenize(data.augmented(batch)).tokens)
    windows = PhotoWindows(train_photos(photos, tmp_path / "other"), ImageNetCrop(16), seed=5)
    assert torch.equal(ours, views(windows, batch.indices.numpy(), batch.epochs.numpy()))
    (validation,) = data.val_dataloader()
    np.testing.assert_array_equal(validation.images, squares.read("validation", 0, 3).images)
    assert "12 train, 3 validation, 3 test images" in data.describe()
