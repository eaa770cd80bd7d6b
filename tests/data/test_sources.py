import csv
from importlib import resources

import numpy as np
import pytest
from PIL import Image

from igpt.data.emoji.build_sheet import base_emoji
from igpt.data.image_files import expand_folders, read_image
from igpt.data.sources import SPLITS, EmojiSource, area_average
from igpt.errors import IgptError


@pytest.fixture(scope="module")
def rows():
    text = (resources.files("igpt.data.emoji") / "emoji.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def test_all_emoji_are_there_once_with_a_class():
    source = EmojiSource(resolution=8)
    sizes = source.sizes()
    labels = np.concatenate([source.read(split, 0, sizes[split]).labels for split in SPLITS])
    assert len(labels) == sum(sizes.values()) == 3786 - 5  # without the five swatches
    assert set(labels) == set(range(9))


def test_no_base_emoji_stands_in_two_splits(rows):
    for split in SPLITS:
        inside = {row["base"] for row in rows if row["split"] == split}
        assert not inside & {row["base"] for row in rows if row["split"] != split}


@pytest.mark.parametrize(
    ("variant", "base"),
    [
        ("1F44D-1F3FD", "1F44D"),  # thumbs up, medium skin
        ("1F469-1F3FF-200D-1F680", "1F9D1-1F680"),  # woman astronaut, dark skin
        ("1F9D1-200D-1F680", "1F9D1-1F680"),  # astronaut
        ("1F3C3-1F3FB-200D-2640-FE0F-200D-27A1-FE0F", "1F3C3"),  # woman running, facing right
        ("1F1E8-1F1ED", "1F1E8-1F1ED"),  # a flag
        ("2640-FE0F", "2640"),  # the female sign alone is not a variant
    ],
)
def test_variants_have_the_same_base_emoji(variant, base):
    assert base_emoji(variant) == base


def test_the_sheet_matches_the_table(rows):
    names = [row["name"] for row in rows if row["split"] == "train"]
    images = EmojiSource(resolution=32).read("train", 0, len(names)).images
    heart, black = images[names.index("heart")], images[names.index("black_large_square")]
    assert heart[16, 16, 0] > 200 > 100 > heart[16, 16, 1]  # red in the middle
    np.testing.assert_array_equal(heart[0, 0], [255, 255, 255])  # on white
    assert black.mean() < 120


def test_area_average_equals_pillows_box_filter():
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(image).resize((8, 8), Image.Resampling.BOX))
    assert np.abs(area_average(image[None], 8)[0].astype(int) - expected).max() <= 1  # Pillow rounds after each axis


def test_other_resolutions_are_refused():
    with pytest.raises(IgptError, match="8, 16 or 32"):
        EmojiSource(resolution=20)


def test_image_files_come_upright_over_white_and_square(tmp_path):
    image = Image.new("RGBA", (40, 20), (255, 0, 0, 255))
    image.paste((0, 0, 255, 0), (0, 0, 20, 20))  # the left half is transparent
    exif = Image.Exif()
    exif[0x0112] = 3  # rotated by 180 degrees
    image.save(tmp_path / "turned.png", exif=exif)
    image = read_image(tmp_path / "turned.png", 4)
    assert image.shape == (4, 4, 3)
    np.testing.assert_array_equal(image[:, 0], [[255, 0, 0]] * 4)
    np.testing.assert_array_equal(image[:, 3], [[255, 255, 255]] * 4)


def test_files_that_are_not_images_are_refused(tmp_path):
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(IgptError, match=r"text\.png is not an image"):
        read_image(tmp_path / "text.png", 4)
    with pytest.raises(IgptError, match="There is no image at"):
        expand_folders([str(tmp_path / "absent.png")])


def test_prompt_images_are_read_as_in_training(tmp_path):
    with pytest.raises(IgptError, match="has no images"):
        expand_folders([str(tmp_path)])
    for name in (".DS_Store", "._cat.png", "notes.txt", "b.PNG", "a.jpeg", "Thumbs.db"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert expand_folders([str(tmp_path)]) == [tmp_path / "a.jpeg", tmp_path / "b.PNG"]
    assert expand_folders([str(tmp_path / "notes.txt")]) == [tmp_path / "notes.txt"]  # a file that is named explicitly
