"""The record that a run keeps of its data, and the message if they have changed."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from conftest import SMALL
from igpt.data.provenance import DataRecord, check_unchanged
from igpt.data.sources import SPLITS, EmojiSource, ImageFolderSource
from igpt.errors import IgptError


def save(folder, name, level):
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (level, 255 - level, level)).save(folder / name)


@pytest.fixture
def pics(tmp_path):
    """Three class folders of 12 images of one color each; the classes share their file names."""
    for k, name in enumerate("abc"):
        for i in range(12):
            save(tmp_path / "pics" / name, f"{i}.png", 80 * k + i)
    return tmp_path / "pics"


@pytest.fixture
def source(pics):
    def make(**settings):
        return ImageFolderSource(str(pics), resolution=8, **settings)

    return make


def test_the_record_has_split_class_and_hash_of_each_file(pics, source, tmp_path):
    record = DataRecord.of(source())
    assert sorted(file.path for files in record.files.values() for file in files) == sorted(
        str(path.relative_to(pics)) for path in pics.rglob("*.png")
    )
    assert all(file.label == file.path[0] for files in record.files.values() for file in files)
    for split in SPLITS:
        images = source().read(split, 0, len(record.files[split])).images
        for file, image in zip(record.files[split], images, strict=True):
            np.testing.assert_array_equal(image, np.asarray(Image.open(pics / file.path)))


def touched(pics):
    for path in pics.rglob("*"):
        path.touch()


def copied(pics):
    pics.rename(pics.with_name("old"))
    shutil.copytree(pics.with_name("old"), pics, copy_function=shutil.copyfile)


def with_a_note(pics):
    (pics / "a" / "notes.txt").write_text("no image")


@pytest.mark.parametrize("change", [touched, copied, with_a_note])
def test_changes_that_do_not_matter_are_accepted(pics, source, tmp_path, change):
    DataRecord.of(source()).save(tmp_path / "record")
    change(pics)
    check_unchanged(source(), tmp_path / "record")


def four_added(pics):
    for i in range(4):
        save(pics / "a", f"x{i}.png", 200 + i)
    return r"4 files added \(a/x0.png, a/x1.png, a/x2.png, ... \(4\)\)"


def one_removed(pics):
    (pics / "b" / "3.png").unlink()
    return r"1 file removed \(b/3.png\)"


def one_changed(pics):
    save(pics / "c", "5.png", 250)
    return r"1 file changed \(c/5.png\)"


def class_renamed(pics):
    (pics / "b").rename(pics / "bb")
    return r"b is now bb \(12 files\)"


def file_renamed(pics):
    (pics / "a" / "1.png").rename(pics / "a" / "first.png")
    return r"a/1.png is now a/first.png \(1 file\)"


def file_moved_to_another_class(pics):
    (pics / "a" / "1.png").rename(pics / "b" / "one.png")
    return r"a/1.png is now b/one.png \(1 file\)"


def all_at_once(pics):
    one_removed(pics), class_renamed(pics), four_added(pics)
    return r"4 files added \(.*\); 1 file removed \(b/3.png\); b is now bb \(11 files\)"


def all_moved_down(pics):
    pics.rename(pics.with_name("old"))
    pics.mkdir()
    pics.with_name("old").rename(pics / "images")
    return r"a is now images/a \(12 files\); b is now images/b \(12 files\); c is now images/c \(12 files\)"


CHANGES = [
    four_added, one_removed, one_changed, class_renamed, file_renamed, file_moved_to_another_class, all_at_once,
    all_moved_down,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_the_message_names_what_has_changed(pics, source, tmp_path, change):
    DataRecord.of(source()).save(tmp_path / "record")
    message = change(pics)
    with pytest.raises(
        IgptError, match=rf"have changed \(folder, .*pics\): {message}\. Restore them, or begin a new run"
    ):
        check_unchanged(source(), tmp_path / "record")


def test_files_of_equal_content_are_distinguished_by_their_names(pics, source, tmp_path):
    for path in pics.rglob("*.png"):
        save(path.parent, path.name, 7)
    DataRecord.of(source()).save(tmp_path / "record")
    (pics / "c").rename(pics / "d")
    with pytest.raises(IgptError, match=r": c is now d \(12 files\)\. "):
        check_unchanged(source(), tmp_path / "record")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split_seed": 1}, "data.source.split_seed was 0 and is 1"),
        ({"labels": False}, "data.source.labels was true and is false"),
        ({"group": "(.*)"}, r'data.source.group was null and is "\(\.\*\)"'),
    ],
)
def test_other_settings_are_named(source, tmp_path, settings, message):
    DataRecord.of(source()).save(tmp_path / "record")
    with pytest.raises(IgptError, match=message):
        check_unchanged(source(**settings), tmp_path / "record")


def test_data_without_files_are_compared_by_their_key(source, tmp_path):
    DataRecord.of(EmojiSource(resolution=8)).save(tmp_path / "record")
    check_unchanged(EmojiSource(resolution=8), tmp_path / "record")
    with pytest.raises(IgptError, match=r"\(emoji, bundled\): data.source.resolution was 8 and is 16"):
        check_unchanged(EmojiSource(resolution=16), tmp_path / "record")


@pytest.mark.parametrize("content", [b"", b"no gzip"])
def test_a_damaged_record_is_named(source, tmp_path, content):
    (tmp_path / "record").write_bytes(content)
    with pytest.raises(IgptError, match="record is damaged .* delete it if"):
        check_unchanged(source(), tmp_path / "record")


def test_every_command_checks_the_data_of_a_run(pics, command, tmp_path):
    few = ("data.batch_size=4", "trainer.max_steps=2", "trainer.val_check_interval=1", "sample_every=99")
    command(
        "train", *SMALL, "data=folder", "data.source.path=pics", "data.num_workers=0", "image_class=null", *few,
        "hydra.run.dir=run",
    )  # fmt: skip
    touched(pics)
    before = command("evaluate", "run=run")
    class_renamed(pics)
    checkpoint = (tmp_path / "run" / "checkpoints" / "last.ckpt").read_bytes()
    for name, *arguments in (
        ("evaluate", "run=run"), ("sample", "run=run", "n=0"), ("probe", "run=run", "logger=none"),
        ("train", "run=run", "trainer.max_steps=4"),
    ):  # fmt: skip
        with pytest.raises(SystemExit, match=re.escape("b is now bb (12 files). Restore them")):
            command(name, *arguments)
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").read_bytes() == checkpoint
    (pics / "bb").rename(pics / "b")
    assert command("evaluate", "run=run").endswith(before)


def test_the_data_are_logged_at_the_start(trained):
    manifests = [json.loads(path.read_text()) for path in trained.parents[1].glob("cache/packed/emoji-*/manifest.json")]
    shapes = [m["shapes"] for m in manifests if m["source"]["resolution"] == 8]
    sizes = [", ".join(f"{shape[split][0]:,} {split}" for split in SPLITS) for shape in shapes]
    lines = [f"Data emoji (bundled): {size} images; 9 classes; 8x8 pixels, 64 tokens per image." for size in sizes]
    log = (trained / "train.log").read_text()
    assert any(line in log for line in lines), log


def test_a_folder_that_was_moved_is_given_at_the_resume(command, pics, tmp_path):
    train = [argument for argument in SMALL if not argument.startswith("data.")]
    train += ["data=folder", f"data.source.path={pics}", "data.source.resolution=8", "data.num_workers=0"]
    train += ["data.batch_size=8", "trainer.val_check_interval=1", "sample_every=null", "image_class=null"]
    command("train", *train, "trainer.max_steps=1", "hydra.run.dir=run")
    moved = pics.rename(tmp_path / "moved")
    command("train", "run=run", "trainer.max_steps=2", f"data.source.path={moved}")
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 2
