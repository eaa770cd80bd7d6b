"""The pictures of a report: no pixel changes, and they fit into their budget."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from igpt.reporting import pictures
from igpt.reporting.pictures import galleries, read_picture
from igpt.run_directory import RunDirectory
from written_run import save_picture


def pixels(picture):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(picture.uri.partition(",")[2]))).convert("RGBA"))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L"])
def test_packing_changes_no_pixel(tmp_path, mode):
    numbers = np.random.default_rng(0).integers(0, 256, (30, 40, 4), dtype=np.uint8).repeat(4, axis=0)
    image = Image.fromarray(numbers).convert(mode)
    image.save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png")
    assert (picture.width, picture.height) == image.size
    assert np.array_equal(pixels(picture), np.asarray(image.convert("RGBA")))
    assert picture.bytes < 4 / 3 * (tmp_path / "a.png").stat().st_size + 50


def test_a_picture_too_large_for_webp_is_kept_as_png(tmp_path):
    Image.new("RGB", (17_000, 2), "red").save(tmp_path / "wide.png")
    picture = read_picture(tmp_path / "wide.png")
    assert picture.uri.startswith("data:image/png;")
    assert pixels(picture).shape == (2, 17_000, 4)


def test_pictures_over_training_are_thinned_from_the_last_one_until_they_fit(tmp_path, monkeypatch):
    for step in range(10, 170, 10):
        save_picture(tmp_path / "samples" / f"step_{step:07d}.png", step)
    for name in ("palette", "position_loss", ".palette-3f"):
        save_picture(tmp_path / "figures" / f"{name}.png", 1)
    save_picture(tmp_path / "figures" / "curve.png", 1)  # the report draws it itself
    one = (tmp_path / "figures" / "palette.png").stat().st_size
    monkeypatch.setattr(pictures, "BUDGET", 7 * one)  # 2 figures, and 5 of 16 samples, of which 4 are 4 apart
    samples, palette, position = galleries({"run": RunDirectory(tmp_path)})
    assert samples.steps == [40, 80, 120, 160]
    assert samples.left_out.startswith("4 of 16 pictures")
    assert [g.title for g in (samples, palette, position)] == ["Samples", "Palette", "Position loss"]
    assert [g.pixels for g in (samples, palette, position)] == [True, True, False]
    assert not palette.steps
    assert not palette.left_out


def test_pictures_of_several_runs_are_in_their_order_and_equal_ones_are_shown_once(tmp_path):
    for name, side in (("a", 40), ("b", 20), ("c", 30)):
        save_picture(tmp_path / name / "figures" / "palette.png", 1)
        save_picture(tmp_path / name / "figures" / "samples.png", 1, side)
    palette, samples = galleries({name: RunDirectory(tmp_path / name) for name in "abc"})
    assert list(palette.shown) == ["these runs"]
    assert list(samples.shown) == ["a", "b", "c"]


def test_a_damaged_picture_is_left_out_with_a_warning(tmp_path, caplog):
    save_picture(tmp_path / "samples" / "step_0000001.png", 1)
    file = tmp_path / "samples" / "step_0000002.png"
    file.write_bytes((tmp_path / "samples" / "step_0000001.png").read_bytes()[:200])
    (tmp_path / "samples" / "step_0000003.png").write_text("no picture")
    (samples,) = galleries({"run": RunDirectory(tmp_path)})
    assert samples.steps == [1]
    assert samples.left_out.startswith("1 of 3 pictures")
    assert str(file) in caplog.text
