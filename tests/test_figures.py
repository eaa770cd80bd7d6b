import numpy as np
import pytest
from PIL import Image

from igpt import figures


def test_grid_places_every_pixel():
    images = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    picture = np.asarray(figures.grid(images, columns=3))
    scale, step = 4, 16 * 4 + figures.GAP
    assert picture.shape == (2 * step + figures.GAP, 3 * step + figures.GAP, 3)
    for i, image in enumerate(images):
        y, x = figures.GAP + i // 3 * step, figures.GAP + i % 3 * step
        np.testing.assert_array_equal(picture[y : y + 64 : scale, x : x + 64 : scale], image)


def test_completion_figure_hides_what_was_not_given():
    originals = np.full((1, 64, 64, 3), 7, np.uint8)
    completions = np.full((1, 2, 64, 64, 3), 9, np.uint8)
    picture = np.asarray(figures.completion_figure(originals, completions, np.arange(64)[:, None].repeat(64, 1) < 32))
    row, shown, hidden = figures.GAP, figures.GAP + 31, figures.GAP + 32
    assert picture[shown, row, 0] == 7
    assert picture[hidden, row, 0] == figures.HIDDEN
    assert [picture[hidden, row + 66 * column, 0] for column in (1, 2, 3)] == [9, 9, 7]


@pytest.mark.parametrize("k", [1, 15, 16, 100])
def test_swatches_show_every_colour(k):
    colours = np.random.default_rng(0).integers(0, 200, (k, 3), dtype=np.uint8)
    picture = np.asarray(figures.swatches(colours))[::16, ::16].reshape(-1, 3)
    assert {tuple(c) for c in colours} == {tuple(c) for c in picture} - {(255, 255, 255)}


def test_loss_curve_draws_both_curves(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,train/nats_per_token,val/nats_per_token\n0,3,\n1,2,2.5\n")
    both = np.asarray(figures.loss_curve(tmp_path / "metrics.csv"))
    (tmp_path / "metrics.csv").write_text("step,train/nats_per_token\n0,3\n1,2\n")
    assert (both != np.asarray(figures.loss_curve(tmp_path / "metrics.csv"))).any()


def test_a_failed_save_leaves_the_old_picture(tmp_path):
    path = figures.save(Image.new("RGB", (2, 2), "red"), tmp_path / "a.png")

    class Broken:
        def save(self, target):
            target.write_bytes(b"half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        figures.save(Broken(), path)
    assert Image.open(path).getpixel((0, 0)) == (255, 0, 0)
    assert list(tmp_path.iterdir()) == [path]
