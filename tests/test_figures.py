import matplotlib.axes
import numpy as np
import pytest
from PIL import Image

from igpt import figures


def test_grid_places_every_pixel():
    images = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    figure = np.asarray(figures.grid(images, columns=3))
    scale, step = 4, 16 * 4 + figures.GAP
    assert figure.shape == (2 * step + figures.GAP, 3 * step + figures.GAP, 3)
    for i, image in enumerate(images):
        y, x = figures.GAP + i // 3 * step, figures.GAP + i % 3 * step
        np.testing.assert_array_equal(figure[y : y + 64 : scale, x : x + 64 : scale], image)


def test_completion_figure_hides_what_was_not_given():
    originals = np.full((1, 64, 64, 3), 7, np.uint8)
    completions = np.full((1, 2, 64, 64, 3), 9, np.uint8)
    figure = np.asarray(figures.completion_figure(originals, completions, np.arange(64)[:, None].repeat(64, 1) < 32))
    row, shown, hidden = figures.GAP, figures.GAP + 31, figures.GAP + 32
    assert figure[shown, row, 0] == 7
    assert figure[hidden, row, 0] == figures.HIDDEN
    assert [figure[hidden, row + 66 * column, 0] for column in (1, 2, 3)] == [9, 9, 7]


@pytest.mark.parametrize("k", [1, 15, 16, 100])
def test_swatches_show_every_color(k):
    colors = np.random.default_rng(0).integers(0, 200, (k, 3), dtype=np.uint8)
    figure = np.asarray(figures.swatches(colors))[::16, ::16].reshape(-1, 3)
    assert {tuple(c) for c in colors} == {tuple(c) for c in figure} - {(255, 255, 255)}


def test_loss_curve_plots_both_curves(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,train/nats_per_token,val/nats_per_token\n0,3,\n1,2,2.5\n")
    both = np.asarray(figures.loss_curve(tmp_path / "metrics.csv"))
    (tmp_path / "metrics.csv").write_text("step,train/nats_per_token\n0,3\n1,2\n")
    assert (both != np.asarray(figures.loss_curve(tmp_path / "metrics.csv"))).any()
    (tmp_path / "metrics.csv").unlink()  # somebody deleted it: the report is made all the same
    assert figures.loss_curve(tmp_path / "metrics.csv").size == both.shape[1::-1]


def contrast(a, b):
    """The contrast ratio of two gray levels in [0, 1], by the definition of WCAG 2."""
    light = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (a, b)]
    return (max(light) + 0.05) / (min(light) + 0.05)


@pytest.mark.parametrize("level", np.linspace(0, 1, 21))
def test_text_stands_out_from_its_background(level):
    text = {"black": 0.0, "white": 1.0}[figures.readable_on((level, level, level))]
    assert contrast(text, level) == max(contrast(0, level), contrast(1, level))


def texts(monkeypatch, n):
    """What the figure of the confusion of n classes writes into its cells, and in which color."""
    written = []
    monkeypatch.setattr(
        matplotlib.axes.Axes, "text", lambda self, x, y, text, color, **_: written.append(((y, x), text, color))
    )
    matrix = np.diag(np.full(n, 5)) + np.eye(n, k=1, dtype=int)
    figure = figures.confusion(matrix, [f"class {i}" for i in range(n)])
    assert max(figure.size) <= 120 * 13.5
    return {place: (text, color) for place, text, color in written}


def test_counts_are_white_where_it_is_dark_and_left_out_where_they_would_not_fit(monkeypatch):
    few = texts(monkeypatch, 3)
    assert few[0, 0] == ("5", "white")
    assert few[0, 2] == ("0", "black")
    assert len(few) == 9
    assert texts(monkeypatch, 100) == {}


def test_a_failed_save_leaves_the_old_figure(tmp_path):
    path = figures.save(Image.new("RGB", (2, 2), "red"), tmp_path / "a.png")

    class Broken:
        def save(self, target):
            target.write_bytes(b"half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        figures.save(Broken(), path)
    assert Image.open(path).getpixel((0, 0)) == (255, 0, 0)
    assert list(tmp_path.iterdir()) == [path]
