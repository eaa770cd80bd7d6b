"""Folders of images of every awkward kind."""

import os
import pickle
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import train_two_steps
from igpt.data.image_files import decode
from igpt.data.sources import SPLITS, ImageFolderSource
from igpt.errors import IgptError

QUARTERS = np.array([[[250, 10, 20], [30, 240, 50]], [[60, 70, 230], [200, 190, 0]]], np.uint8)  # (2, 2, 3)


def blocks(colours, size=16):
    """Each of 2 x 2 colours as a square of `size` pixels."""
    return colours.repeat(size, 0).repeat(size, 1)


def gray(values):
    return np.asarray(values, np.uint8)[..., None].repeat(3, -1)


# Each saves an image into a file without a suffix and says which 2 x 2 pixels and tolerance to expect.


def rgb_png(file):
    Image.fromarray(blocks(QUARTERS)).save(file, "PNG")
    return QUARTERS, 0


def wide_image(file):
    picture = np.zeros((32, 50, 3), np.uint8)
    picture[:, 9:41] = blocks(QUARTERS)
    Image.fromarray(picture).save(file, "PNG")
    return QUARTERS, 0


def turned_jpeg(file):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its left side
    stored = np.rot90(blocks(QUARTERS, 100))
    Image.fromarray(stored).save(file, "JPEG", quality=100, subsampling=0, exif=exif)
    return QUARTERS, 3


def cmyk_jpeg(file):
    ink = 255 - QUARTERS
    picture = np.concatenate([ink, np.zeros_like(ink[..., :1])], -1)  # without black
    Image.fromarray(blocks(picture, 64), "CMYK").save(file, "JPEG", quality=100, subsampling=0)
    return QUARTERS, 3


def cmyk_tiff_with_black(file):
    picture = np.array([[[0, 0, 0, 0], [0, 0, 0, 255]], [[0, 255, 255, 0], [255, 0, 255, 0]]], np.uint8)
    Image.fromarray(blocks(picture), "CMYK").save(file, "TIFF")
    return np.array([[[255, 255, 255], [0, 0, 0]], [[255, 0, 0], [0, 255, 0]]]), 0


def gray_of_16_bits(file):
    levels = np.array([[0, 100 * 257], [200 * 257 + 128, 65535]], np.uint16)
    Image.fromarray(blocks(levels)).save(file, "PNG")
    return gray([[0, 100], [200, 255]]), 0


def gray_of_16_bits_tiff(file):
    levels = np.array([[0, 100 * 257], [200 * 257 + 128, 65535]], ">u2")
    Image.fromarray(blocks(levels)).save(file, "TIFF")
    return gray([[0, 100], [200, 255]]), 0


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
    rgb_png, wide_image, turned_jpeg, cmyk_jpeg, cmyk_tiff_with_black, gray_of_16_bits, gray_of_16_bits_tiff, gray_jpeg,
    black_and_white, gray_with_alpha, rgb_with_alpha, palette_with_transparency, palette_with_levels_of_transparency,
    animated_gif, ycbcr_tiff,
]  # fmt: skip


@pytest.mark.parametrize("save", READABLE)
def test_what_an_image_looks_like(tmp_path, save):
    expected, tolerance = save(tmp_path / "file")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = decode(tmp_path / "file", 8)
    assert found.shape == (8, 8, 3)
    found = found[1::5, 1::5]  # a pixel well inside of each square
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
    return "format is not known"


def text(file):
    file.write_text("no image")
    return "format is not known"


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
def test_large_jpegs_look_the_same_at_any_scale_of_decoding(tmp_path, resolution):
    y, x = np.mgrid[:1200, :1000] / 300
    photo = np.stack([127 + 120 * np.sin(y * x), 127 + 120 * np.cos(3 * y), 10 * (x + y)], -1).astype(np.uint8)
    Image.fromarray(photo).save(tmp_path / "photo.jpg", quality=95)
    whole, square = Image.open(tmp_path / "photo.jpg"), (0, 100, 1000, 1100)
    expected = np.asarray(whole.resize((resolution, resolution), Image.Resampling.HAMMING, square)).astype(int)
    assert np.abs(decode(tmp_path / "photo.jpg", resolution) - expected).mean() < 0.7


def test_small_images_grow_smoothly(tmp_path):
    Image.fromarray(np.array([[0, 255]] * 2, np.uint8)).save(tmp_path / "a.png")
    row = decode(tmp_path / "a.png", 16)[8, :, 0].astype(int)
    assert (np.diff(row) >= 0).all()
    assert len(set(row)) > 6


# Layouts


def fill(folder, n, start=0, suffix=".png"):
    """N images; image i is all gray of level i."""
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


def test_as_is_the_custom_with_imagenet(split_folders):
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
    with pytest.raises(IgptError, match=r"test/099.png is in no folder of the 2 classes.*labels=false"):
        ImageFolderSource(str(split_folders), resolution=2).read("train", 0, 1)
    source = ImageFolderSource(str(split_folders), resolution=2, labels=False)
    assert source.classes == ()
    assert levels(source, "test") == [99, 83, 84, 85, 80, 81, 82]


def test_the_key_follows_the_files(split_folders):
    def key():
        return ImageFolderSource(str(split_folders), resolution=2).key()

    first, image = key(), split_folders / "train" / "ant" / "deeper" / "003.png"
    assert key() == first
    status = image.stat()
    os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    touched = key()
    image.rename(image.with_name("renamed.png"))
    renamed = key()
    (split_folders / "train" / "notes.txt").write_text("still no image")
    assert key() == renamed
    assert len({first["files"], touched["files"], renamed["files"]}) == 3
    assert ImageFolderSource(str(split_folders), resolution=4).key() != renamed


def test_another_process_sees_the_listing_of_the_first(split_folders):
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
def test_folders_that_do_not_fit(tmp_path, make, settings, message):
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
