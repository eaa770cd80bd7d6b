"""Folders of images: formats, layouts, links, groups, and their keys."""

import os
import pickle
import re
import shutil
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import together, train_two_steps
from igpt.data import content_hashes as content
from igpt.data import disk_memo
from igpt.data.content_hashes import content_hashes
from igpt.data.image_files import decode, square
from igpt.data.sources import SPLITS, ImageFolderSource, at_resolution, image_folder
from igpt.errors import IgptError
from igpt.files import sha256

QUARTERS = np.array([[[250, 10, 20], [30, 240, 50]], [[60, 70, 230], [200, 190, 0]]], np.uint8)  # (2, 2, 3)


def blocks(colors, size=16):
    """Each of 2 x 2 colors as a square of `size` pixels."""
    return colors.repeat(size, 0).repeat(size, 1)


def gray(values):
    return np.asarray(values, np.uint8)[..., None].repeat(3, -1)


# Each function saves an image to a file without a suffix, and returns the expected 2 x 2 pixels and a tolerance.


def rgb_png(file):
    Image.fromarray(blocks(QUARTERS)).save(file, "PNG")
    return QUARTERS, 0


def wide_image(file):
    pixels = np.zeros((32, 50, 3), np.uint8)
    pixels[:, 9:41] = blocks(QUARTERS)
    Image.fromarray(pixels).save(file, "PNG")
    return QUARTERS, 0


def turned_jpeg(file):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored rotated by 90 degrees
    stored = np.rot90(blocks(QUARTERS, 100))
    Image.fromarray(stored).save(file, "JPEG", quality=100, subsampling=0, exif=exif)
    return QUARTERS, 3


def cmyk_jpeg(file):
    ink = 255 - QUARTERS
    pixels = np.concatenate([ink, np.zeros_like(ink[..., :1])], -1)  # without black
    Image.fromarray(blocks(pixels, 64), "CMYK").save(file, "JPEG", quality=100, subsampling=0)
    return QUARTERS, 3


def cmyk_tiff_with_black(file):
    pixels = np.array([[[0, 0, 0, 0], [0, 0, 0, 255]], [[0, 255, 255, 0], [255, 0, 255, 0]]], np.uint8)
    Image.fromarray(blocks(pixels), "CMYK").save(file, "TIFF")
    return np.array([[[255, 255, 255], [0, 0, 0]], [[255, 0, 0], [0, 255, 0]]]), 0


def gray_of_16_bits(file):
    levels = np.array([[0, 100 * 257], [200 * 257 + 128, 65535]], np.uint16)
    Image.fromarray(blocks(levels)).save(file, "PNG")
    return gray([[0, 100], [200, 255]]), 0


def gray_of_16_bits_tiff(file):
    levels = np.array([[0, 100 * 257], [200 * 257 + 128, 65535]], ">u2")
    Image.fromarray(blocks(levels)).save(file, "TIFF")
    return gray([[0, 100], [200, 255]]), 0


def gray_of_32_bits_that_ends_at_255(file):
    Image.fromarray(blocks(np.array([[0, 100], [200, 255]], np.int32))).save(file, "TIFF")
    return gray([[0, 100], [200, 255]]), 0


def gray_of_32_bits_beyond_255(file):
    Image.fromarray(blocks(np.array([[0, 100 * 257], [200 * 257, 65535]], np.int32))).save(file, "TIFF")
    return gray([[0, 100], [200, 255]]), 0


def dark_gray_of_16_bits(file):
    Image.fromarray(blocks(np.array([[0, 1 * 257], [2 * 257, 3 * 257]], np.uint16))).save(file, "PNG")
    return gray([[0, 1], [2, 3]]), 0


def gray_jpeg(file):
    Image.fromarray(blocks(np.array([[5, 100], [200, 250]], np.uint8), 64)).save(file, "JPEG", quality=100)
    return gray([[5, 100], [200, 250]]), 2


def black_and_white(file):
    Image.fromarray(blocks(np.array([[0, 255], [255, 0]], np.uint8))).convert("1").save(file, "PNG")
    return gray([[0, 255], [255, 0]]), 0


def gray_with_alpha(file):
    Image.fromarray(blocks(np.array([[[9, 255], [9, 0]], [[0, 51], [99, 255]]], np.uint8))).save(file, "PNG")
    return gray([[9, 255], [204, 99]]), 1


def rgb_with_alpha(file):
    alpha = np.array([[255, 0], [255, 102]], np.uint8)[..., None]
    Image.fromarray(blocks(np.concatenate([QUARTERS, alpha], -1))).save(file, "WEBP", lossless=True, exact=True)
    expected = QUARTERS.astype(int).copy()
    expected[0, 1] = 255
    expected[1, 1] = np.rint(0.4 * QUARTERS[1, 1] + 0.6 * 255)
    return expected, 1


def palette_with_transparency(file):
    image = Image.fromarray(blocks(np.array([[0, 1], [2, 1]], np.uint8)), "P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.save(file, "PNG", transparency=1)
    return np.array([[[255, 0, 0], [255, 255, 255]], [[0, 0, 255], [255, 255, 255]]]), 0


def palette_with_levels_of_transparency(file):
    image = Image.fromarray(blocks(np.array([[0, 1], [2, 0]], np.uint8)), "P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.save(file, "PNG", transparency=bytes([255, 51, 0]))
    return np.array([[[255, 0, 0], [204, 255, 204]], [[255, 255, 255], [255, 0, 0]]]), 1


def animated_gif(file):
    frames = [Image.fromarray(blocks(np.array(q, np.uint8))) for q in ([[0, 255], [255, 0]], [[255, 0], [0, 255]])]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    return gray([[0, 255], [255, 0]]), 0


def ycbcr_tiff(file):
    Image.fromarray(blocks(QUARTERS)).convert("YCbCr").save(file, "TIFF")
    return QUARTERS, 3


READABLE = [
    rgb_png, wide_image, turned_jpeg, cmyk_jpeg, cmyk_tiff_with_black, gray_of_16_bits, gray_of_16_bits_tiff,
    gray_of_32_bits_that_ends_at_255, gray_of_32_bits_beyond_255, dark_gray_of_16_bits, gray_jpeg,
    black_and_white, gray_with_alpha, rgb_with_alpha, palette_with_transparency, palette_with_levels_of_transparency,
    animated_gif, ycbcr_tiff,
]  # fmt: skip


@pytest.mark.parametrize("save", READABLE)
def test_every_kind_of_image_is_decoded(tmp_path, save):
    expected, tolerance = save(tmp_path / "file")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = decode(tmp_path / "file", 8, square)
    assert found.shape == (8, 8, 3)
    found = found[1::5, 1::5]  # one pixel inside each square
    np.testing.assert_allclose(found.astype(int), expected, atol=tolerance)


def truncated(file):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, "JPEG")
    file.write_bytes(file.read_bytes()[:2000])
    return "truncated"


def truncated_png(file):
    rgb_png(file)
    file.write_bytes(file.read_bytes()[:60])
    return ""


def empty(file):
    file.touch()
    return "format is unknown"


def text(file):
    file.write_text("no image")
    return "format is unknown"


def far_too_large(file):
    Image.new("1", (1000, 301)).save(file, "PNG")  # the limit is set to 150,000 pixels below
    return "decompression bomb"


def floating_point(file):
    Image.fromarray(np.ones((4, 4), np.float32)).save(file, "TIFF")
    return "floating-point"


def signed_integers(file):
    Image.fromarray(np.full((4, 4), -5, np.int32)).save(file, "TIFF")
    return "16 bits"


UNREADABLE = [truncated, truncated_png, empty, text, far_too_large, floating_point, signed_integers]


def test_unreadable_images_are_blank_and_named(tmp_path, monkeypatch, recwarn):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 150_000)
    Image.new("1", (1000, 299)).save(tmp_path / "large.png")  # less than twice that: Pillow only warns
    reasons = {f"{save.__name__}.jpg": save(tmp_path / f"{save.__name__}.jpg") for save in UNREADABLE}
    (tmp_path / "broken_link.png").symlink_to(tmp_path / "absent.png")
    source = ImageFolderSource(str(tmp_path), resolution=4)
    found = {}
    for split in SPLITS:
        chunk = source.read(split, 0, source.sizes()[split])
        assert all((chunk.images[place] == 255).all() for place in chunk.unreadable)
        found |= dict(line.split(": ", 1) for line in chunk.unreadable.values())
    assert set(found) == {str(tmp_path / name) for name in (*reasons, "broken_link.png")}
    assert all(reason in found[str(tmp_path / name)] for name, reason in reasons.items())
    assert len(recwarn) == 0


@pytest.mark.parametrize("resolution", [4, 20, 50, 125])
def test_reduced_decoding_of_jpegs_hardly_changes_them(tmp_path, resolution):
    y, x = np.mgrid[:1200, :1000] / 300
    photo = np.stack([127 + 120 * np.sin(y * x), 127 + 120 * np.cos(3 * y), 10 * (x + y)], -1).astype(np.uint8)
    Image.fromarray(photo).save(tmp_path / "photo.jpg", quality=95)
    photo, center = Image.open(tmp_path / "photo.jpg"), (0, 100, 1000, 1100)
    expected = np.asarray(photo.resize((resolution, resolution), Image.Resampling.HAMMING, center)).astype(int)
    assert np.abs(decode(tmp_path / "photo.jpg", resolution, square) - expected).mean() < 0.7


def test_small_images_are_interpolated(tmp_path):
    Image.fromarray(np.array([[0, 255]] * 2, np.uint8)).save(tmp_path / "a.png")
    row = decode(tmp_path / "a.png", 16, square)[8, :, 0].astype(int)
    assert (np.diff(row) >= 0).all()
    assert len(set(row)) > 6


# Layouts


def fill(folder, n, start=0, suffix=".png"):
    """Write n gray images; image i has level i."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(start, start + n):
        Image.new("L", (3, 3), i).save(folder / f"{i:03}{suffix}")


def levels(source, split):
    return [int(image[0, 0, 0]) for image in source.read(split, 0, source.sizes()[split]).images]


def labels(source, split):
    return source.read(split, 0, source.sizes()[split]).labels.tolist()


@pytest.fixture
def split_folders(tmp_path):
    for split, start in (("train", 0), ("val", 40), ("test", 80)):
        for k, kind in enumerate(("zebra", "ant")):
            fill(tmp_path / split / kind / "deeper", 3, start + 3 * k)
    (tmp_path / "train" / "notes.txt").write_text("no image")
    (tmp_path / "train" / "ant" / "._hidden.png").write_text("no image")
    return tmp_path


def test_split_folders_with_classes(split_folders):
    source = ImageFolderSource(str(split_folders), resolution=2)
    assert source.classes == ("ant", "zebra")
    for split, start in (("train", 0), ("validation", 40), ("test", 80)):
        assert levels(source, split) == [start + i for i in (3, 4, 5, 0, 1, 2)]
        assert labels(source, split) == [0, 0, 0, 1, 1, 1]


def test_val_is_test_uses_the_validation_folder_for_testing(split_folders):
    source = ImageFolderSource(str(split_folders), resolution=2, val_is_test=True, validation_share=0.3)
    assert levels(source, "test") == [43, 44, 45, 40, 41, 42]
    assert sorted(levels(source, "train") + levels(source, "validation")) == [0, 1, 2, 3, 4, 5]
    assert source.sizes()["validation"] == 2


def test_class_folders_without_splits(tmp_path):
    fill(tmp_path / "a", 30, suffix=".JPEG")
    fill(tmp_path / "b", 10, start=100)
    source = ImageFolderSource(str(tmp_path), resolution=2, validation_share=0.25, test_share=0.1)
    assert source.sizes() == {"train": 27, "validation": 9, "test": 4}
    assert sorted(level for split in SPLITS for level in levels(source, split)) == [*range(30), *range(100, 110)]
    for split in SPLITS:
        assert labels(source, split) == [int(level >= 100) for level in levels(source, split)]
    other = ImageFolderSource(str(tmp_path), resolution=2, validation_share=0.25, test_share=0.1, split_seed=1)
    assert levels(other, "test") != levels(source, "test")


def test_a_flat_folder_has_no_classes(tmp_path):
    fill(tmp_path, 20)
    source = ImageFolderSource(str(tmp_path), resolution=2)
    assert source.classes == ()
    assert set(labels(source, "train")) == {-1}
    assert source.sizes() == {"train": 16, "validation": 2, "test": 2}


def test_labels_can_be_ignored(split_folders):
    fill(split_folders / "test", 1, 99)  # flat, beside the classes
    with pytest.raises(IgptError, match=r"test/099.png is in none of the folders of the 2 classes.*labels=false"):
        ImageFolderSource(str(split_folders), resolution=2).read("train", 0, 1)
    source = ImageFolderSource(str(split_folders), resolution=2, labels=False)
    assert source.classes == ()
    assert levels(source, "test") == [99, 83, 84, 85, 80, 81, 82]


def key_of(folder, **settings):
    return ImageFolderSource(str(folder), resolution=2, **settings).key()


def test_the_key_follows_what_is_in_the_files(split_folders):
    first, image = key_of(split_folders), split_folders / "train" / "ant" / "deeper" / "003.png"
    for path in split_folders.rglob("*"):
        path.touch()  # times do not matter
    (split_folders / "train" / "notes.txt").write_text("still no image")
    assert key_of(split_folders) == first
    image.rename(image.with_name("renamed.png"))
    renamed = key_of(split_folders)
    status = image.with_name("renamed.png").stat()
    Image.new("L", (3, 3), 77).save(image.with_name("renamed.png"))  # another image of the same size and time
    os.utime(image.with_name("renamed.png"), ns=(status.st_atime_ns, status.st_mtime_ns))
    assert image.with_name("renamed.png").stat().st_size == status.st_size
    changed = key_of(split_folders)
    assert len({first["files"], renamed["files"], changed["files"]}) == 3
    assert ImageFolderSource(str(split_folders), resolution=4).key() != changed


def test_folders_with_equal_names_and_sizes_have_different_keys(tmp_path):
    for folder, level in (("one", 10), ("two", 20)):
        (tmp_path / folder / "a").mkdir(parents=True)
        Image.new("L", (3, 3), level).save(tmp_path / folder / "a" / "0.png")
        os.utime(tmp_path / folder / "a" / "0.png", ns=(0, 10**18))
    one, two = (tmp_path / folder / "a" / "0.png" for folder in ("one", "two"))
    assert one.stat().st_size == two.stat().st_size
    cache = str(tmp_path / "cache")
    assert key_of(tmp_path / "one", cache_dir=cache) != key_of(tmp_path / "two", cache_dir=cache)
    before = key_of(tmp_path / "two", cache_dir=cache)
    shutil.rmtree(tmp_path / "one")
    (tmp_path / "two").rename(tmp_path / "one")  # another folder with equal names, sizes and times takes its place
    assert key_of(tmp_path / "one", cache_dir=cache) == before
    assert key_of(shutil.copytree(tmp_path / "one", tmp_path / "copy")) == before


def test_unchanged_files_are_read_once(split_folders, tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(content, "sha256", lambda path: read.append(path.name) or sha256(path))
    cache = str(tmp_path / "cache")
    first = key_of(split_folders, cache_dir=cache)
    assert len(read) == 18
    assert key_of(split_folders, cache_dir=cache) == first
    assert len(read) == 18
    (split_folders / "train" / "ant" / "deeper" / "004.png").touch()
    assert key_of(split_folders, cache_dir=cache) == first
    assert read[18:] == ["004.png"]
    (note,) = (tmp_path / "cache" / "contents").glob("*.json.gz")
    note.write_bytes(b"damaged")
    assert key_of(split_folders, cache_dir=cache) == first


def test_one_of_several_processes_reads_the_files(split_folders, tmp_path, monkeypatch):
    files, read = [str(path.relative_to(split_folders)) for path in split_folders.rglob("0*.png")], []
    monkeypatch.setattr(content, "sha256", lambda path: read.append(path) or sha256(path))
    monkeypatch.setattr(content, "_remembered", together(content._remembered, 8))
    with ThreadPoolExecutor(8) as pool:  # file locks hold between threads, too
        hashes = list(pool.map(lambda _: content_hashes(split_folders, files, tmp_path / "cache"), range(8)))
    assert hashes == [[sha256(split_folders / file)[:32] for file in files]] * 8
    assert len(read) == len(files) == 18


def test_without_a_cache_that_can_be_written_each_process_reads(split_folders, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(disk_memo, "home_cache", lambda: tmp_path / "file")
    assert key_of(split_folders, cache_dir=str(tmp_path / "file")) == key_of(split_folders)


def test_the_users_own_cache_is_read_where_the_shared_one_is_outdated(split_folders, tmp_path, monkeypatch):
    common, own = tmp_path / "common", tmp_path / "own"
    first = key_of(split_folders, cache_dir=str(common))
    for file in split_folders.rglob("*.png"):
        file.touch()
    assert key_of(split_folders, cache_dir=str(own)) == first
    monkeypatch.setattr(disk_memo, "home_cache", lambda: own)
    monkeypatch.setattr(content, "sha256", None)
    assert key_of(split_folders, cache_dir=str(common)) == first


def test_another_resolution_does_not_list_the_files_again(split_folders, monkeypatch):
    source = ImageFolderSource(str(split_folders), resolution=8, split_seed=3)
    source.key()
    fresh = ImageFolderSource(str(split_folders), resolution=16, split_seed=3)
    expected = fresh.key(), fresh.read("train", 0, 4).images
    monkeypatch.setattr(image_folder, "FolderWalk", None)
    monkeypatch.setattr(image_folder, "content_hashes", None)
    other = at_resolution(source, 16)
    assert other.key() == expected[0]
    assert np.array_equal(other.read("train", 0, 4).images, expected[1])
    assert source.resolution == 8


# Names of folders


def test_split_folders_in_upper_case_are_splits(tmp_path):
    for names in (("Train", "VAL", "Testing"), ("training", "Dev", "TEST")):
        folder = tmp_path / names[0]
        for k, name in enumerate(names):
            fill(folder / name / "a", 2, 10 * k)
        source = ImageFolderSource(str(folder), resolution=2)
        assert [levels(source, split) for split in SPLITS] == [[0, 1], [10, 11], [20, 21]]
        assert source.classes == ("a",)


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (
            ["a", "b", "c", "d", "test"],
            r"has test beside a, b, c, ... \(4\), but no train; move the training images",
        ),
        (["val", "Test"], "has val and Test, but no train"),
        (["train", "boat", "plane"], "has train beside boat, plane; move the others into train if they are classes"),
        (["val", "train", "Validation"], "has both .* and .* for validation images"),
        (["train_images", "test_images"], "has the folders train_images, test_images; name them"),
        (["photos/train", "photos/test"], "has splits inside other folders .*; set data.source.path=.*photos if"),
        (["a/train", "a/test", "b/train", "b/test"], "has splits inside other folders"),
    ],
)
def test_folders_that_may_be_splits_or_classes_are_refused(tmp_path, folders, message):
    for k, folder in enumerate(folders):
        fill(tmp_path / folder / "deeper", 4, 10 * k)
    with pytest.raises(IgptError, match=message + r".*"):
        ImageFolderSource(str(tmp_path), resolution=2).sizes()
    source = ImageFolderSource(str(tmp_path), resolution=2, split_folders=False)  # as the message advises
    assert sum(source.sizes().values()) == 4 * len(folders)
    assert source.classes == tuple(sorted({folder.split("/")[0] for folder in folders}))


def test_other_folders_beside_splits_are_not_used(split_folders, caplog):
    caplog.set_level("INFO")
    fill(split_folders / "extra", 2, 200)
    (split_folders / "annotations").mkdir()
    assert sum(ImageFolderSource(str(split_folders), resolution=2).sizes().values()) == 18
    assert "has train and val and test beside extra, whose images are not used" in caplog.text


# Links


@pytest.fixture
def linked(tmp_path):
    """Three classes below tmp_path/here/pics, and one more image in tmp_path/elsewhere."""
    for k, name in enumerate("abc"):
        fill(tmp_path / "here" / "pics" / name, 4, 10 * k)
    fill(tmp_path / "elsewhere", 1, 99)
    return tmp_path / "here" / "pics"


def all_levels(source):
    return sorted(level for split in SPLITS for level in levels(source, split))


TWELVE = [*range(4), *range(10, 14), *range(20, 24)]


@pytest.mark.parametrize("target", [".", "..", "../..", "../../..", "a", "b", "c/../b"])
def test_a_link_to_a_folder_that_is_read_anyway_is_skipped(linked, caplog, target):
    (linked / "a" / "self").symlink_to(linked / target)
    source = ImageFolderSource(str(linked), resolution=2)
    assert all_levels(source) == TWELVE
    assert [labels(source, s).count(1) for s in SPLITS] == [
        sum(10 <= v < 20 for v in levels(source, s)) for s in SPLITS
    ]
    assert "1 links in" in caplog.text
    assert "the first is a/self" in caplog.text


def test_links_to_folders_elsewhere_are_followed_once(linked, caplog):
    for name in ("d", "e"):
        (linked / name).symlink_to("../../elsewhere")
    (linked.parents[1] / "elsewhere" / "back").symlink_to(linked)
    (linked.parents[1] / "elsewhere" / "up").symlink_to("..")
    source = ImageFolderSource(str(linked), resolution=2)
    assert all_levels(source) == [*TWELVE, 99]
    assert source.classes == ("a", "b", "c", "d")
    assert "3 links in" in caplog.text


def test_links_do_not_carry_test_images_into_the_training_split(split_folders):
    (split_folders / "train" / "more").symlink_to("../test")
    source = ImageFolderSource(str(split_folders), resolution=2)
    assert sorted(levels(source, "train")) == list(range(6))
    assert sorted(levels(source, "test")) == list(range(80, 86))


def test_a_split_that_is_a_link_to_another_is_refused(split_folders):
    shutil.rmtree(split_folders / "test")
    (split_folders / "test").symlink_to("train")
    with pytest.raises(IgptError, match="test has no images of its own"):
        ImageFolderSource(str(split_folders), resolution=2).sizes()


def test_a_split_may_be_a_link_to_elsewhere_and_files_may_be_links(linked, tmp_path):
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "train").symlink_to(linked)
    (tmp_path / "splits" / "test").mkdir()
    (tmp_path / "splits" / "test" / "z.png").symlink_to(tmp_path / "elsewhere" / "099.png")
    source = ImageFolderSource(str(tmp_path / "splits"), resolution=2, labels=False)
    assert all_levels(source) == [*TWELVE, 99]
    assert levels(source, "test") == [99]


# Groups


@pytest.fixture
def patients(tmp_path):
    """Sixty images of twenty patients, three of each."""
    for patient in range(20):
        for i in range(3):
            fill_one = tmp_path / "scans" / "ab"[patient % 2]
            fill_one.mkdir(parents=True, exist_ok=True)
            Image.new("L", (3, 3), 10 * patient + i).save(fill_one / f"patient{patient}_{i}.png")
    return tmp_path / "scans"


def patients_of(source):
    return [{level // 10 for level in levels(source, split)} for split in SPLITS]


def test_images_of_a_group_stay_in_one_split(patients, tmp_path):
    table = tmp_path / "groups.csv"
    files = sorted(path.relative_to(patients) for path in patients.rglob("*.png"))
    table.write_text("path,age,group\n" + "".join(f"{f},40,{f.name.split('_')[0]}\n" for f in files))
    found = []
    for group in (r"(patient\d+)_", str(table)):
        source = ImageFolderSource(str(patients), resolution=2, group=group, test_share=0.2)
        train, validation, test = patients_of(source)
        assert (len(train), len(validation), len(test)) == (14, 2, 4)  # tenths and fifths of twenty patients
        assert not train & test
        assert not train & validation
        assert not validation & test
        assert source.sizes() == {"train": 42, "validation": 6, "test": 12}
        groups = source.read("test", 0, 12).groups
        assert len(set(groups)) == 4
        assert [level // 10 for level in levels(source, "test")] == [
            {g: level // 10 for g, level in zip(groups, levels(source, "test"), strict=True)}[g] for g in groups
        ]
        found.append((train, validation, test))
    assert found[0] == found[1]
    alone = ImageFolderSource(str(patients), resolution=2, test_share=0.2)
    assert patients_of(alone)[0] & patients_of(alone)[2]  # without groups, they were divided
    table.write_text(table.read_text().replace("patient9\n", "patient8\n"))
    assert key_of(patients, group=str(table)) != ImageFolderSource(str(patients), resolution=2, group=r"(p\d+)_").key()


def test_groups_of_one_image_do_not_change_the_split(patients):
    alone = ImageFolderSource(str(patients), resolution=2)
    single = ImageFolderSource(str(patients), resolution=2, group="(.*)")
    assert [levels(alone, split) for split in SPLITS] == [levels(single, split) for split in SPLITS]


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ("(p", "is not a regular expression"),
        ("patient", "needs parentheses"),
        ("(patient1[0-9])", r"does not match a/patient0_0\.png; each image needs a group"),
        ("nowhere.csv", "There is no table of groups at nowhere.csv"),
        ("(patient)", r"Holding out 60 of 60 images, in groups \(1\) that stay together, leaves none"),
    ],
)
def test_invalid_groups_are_refused(patients, group, message):
    with pytest.raises(IgptError, match=message):
        ImageFolderSource(str(patients), group=group).sizes()


@pytest.mark.parametrize(
    ("table", "message"),
    [("a,b\n1,2\n", "must name its columns"), ("path,group\na/patient0_0.png,1\n", r"no group for a/patient0_1\.png")],
)
def test_invalid_tables_of_groups_are_refused(patients, tmp_path, table, message):
    (tmp_path / "groups.csv").write_text(table)
    with pytest.raises(IgptError, match=message):
        ImageFolderSource(str(patients), group=str(tmp_path / "groups.csv")).sizes()


def test_a_group_in_the_folders_of_two_splits_is_refused(tmp_path):
    fill(tmp_path / "train", 3)
    fill(tmp_path / "test", 3, 2)
    with pytest.raises(IgptError, match="train/002.png and test/002.png are of one group .* two splits"):
        ImageFolderSource(str(tmp_path), group=r"(\d+)").sizes()


def test_a_pickled_source_keeps_its_listing(split_folders):
    source = ImageFolderSource(str(split_folders), resolution=2)
    sizes = source.sizes()
    fill(split_folders / "train" / "ant", 5, 200)
    copy = pickle.loads(pickle.dumps(source))
    assert copy.sizes() == sizes
    assert levels(copy, "train") == [3, 4, 5, 0, 1, 2]


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (lambda path: None, {}, "There is no folder"),
        (lambda path: (path / "train").mkdir(parents=True), {}, "train has no images"),
        (lambda path: fill(path / "train", 3), {"val_is_test": True}, "has no val"),
        (lambda path: fill(path, 3), {"val_is_test": True}, "has no train"),
    ],
)
def test_invalid_folders_are_refused(tmp_path, make, settings, message):
    make(tmp_path / "data")
    with pytest.raises(IgptError, match=message):
        ImageFolderSource(str(tmp_path / "data"), **settings).sizes()


def test_training_from_a_folder_of_awkward_images(tmp_path, command, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 150_000)
    folder = tmp_path / "photos"
    fill(folder, 30)
    for save in (*READABLE, *UNREADABLE):
        save(folder / f"{save.__name__}.png")
    source = (f"data.source.path={folder}", "tokenizer=rgb", "data.max_unreadable=0.2")
    summary = train_two_steps(command, tmp_path, "folder", *source)
    assert summary["test/bits_per_dimension"] == pytest.approx(summary["test/bits_per_token"])
    log = (tmp_path / "run" / "train.log").read_text()
    said = re.search(rf"{len(UNREADABLE)} of {30 + len(READABLE) + len(UNREADABLE)} images .* listed in (.*)", log)
    listed = Path(said[1]).read_text().splitlines()
    assert sorted(line.split(": ")[0] for line in listed) == sorted(
        str(folder / f"{u.__name__}.png") for u in UNREADABLE
    )
