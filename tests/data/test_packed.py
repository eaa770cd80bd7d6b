import numpy as np
import pytest

from igpt.data.packed import open_packed, pack
from igpt.data.sources import SPLITS, EmojiSource
from igpt.errors import IgptError


@pytest.fixture
def source():
    return EmojiSource(resolution=8)


def test_packed_images_are_the_sources(tmp_path, source):
    splits = open_packed(pack(source, tmp_path))
    for split in SPLITS:
        images, labels = next(source.chunks(split))
        np.testing.assert_array_equal(splits[split].images, images)
        np.testing.assert_array_equal(splits[split].labels, labels)
    assert isinstance(splits["train"].images, np.memmap)


def test_packing_happens_once_and_anew_for_other_settings(tmp_path, source):
    folder = pack(source, tmp_path)
    before = (folder / "manifest.json").stat().st_mtime_ns
    assert pack(source, tmp_path) == folder
    assert (folder / "manifest.json").stat().st_mtime_ns == before
    assert pack(EmojiSource(resolution=16), tmp_path) != folder


def test_an_interrupted_packing_leaves_nothing(tmp_path, source):
    class Breaks(EmojiSource):
        def chunks(self, split):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(Breaks(resolution=8), tmp_path)
    assert [path for path in (tmp_path / "packed").iterdir() if path.suffix != ".lock"] == []
    open_packed(pack(source, tmp_path))


def test_a_source_that_breaks_its_promise_is_refused(tmp_path):
    class Short(EmojiSource):
        def chunks(self, split):
            images, labels = next(super().chunks(split))
            yield images[1:], labels[1:]

    with pytest.raises(IgptError, match="promised 3054 images in its train split and gave 3053"):
        pack(Short(resolution=8), tmp_path)


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


def test_images_to_show_are_of_the_class_asked_for(tmp_path, source):
    split = open_packed(pack(source, tmp_path))["test"]
    chosen = split.choose(3, label=8)
    of_class = split.images[split.labels == 8]
    assert len(chosen) == 3
    assert all((image == of_class).all(axis=(1, 2, 3)).any() for image in chosen)
    with pytest.raises(IgptError, match="class 99"):
        split.choose(3, label=99)
