"""Figures: grids of images, completions, palettes, curves. Arrays in, PIL images out."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from igpt.files import atomic_path
from igpt.metrics_file import read_rows

Images = NDArray[np.uint8]  # (N, H, W, 3)

GAP = 2  # pixels between images, after enlarging
SHORTEST_SIDE = 64  # smaller images are enlarged, without smoothing, at least to this
HIDDEN = 200  # the gray level of pixels that the model was not given
MOST_COUNTED, MOST_NAMED = 25, 120  # a confusion matrix of more classes shows no counts, no names


def grid(images: Images, columns: int | None = None) -> Image.Image:
    """Images in rows, enlarged so that single pixels can be seen; about square if `columns` is None."""
    n, height, width, _ = images.shape
    columns = columns or max(1, int(np.ceil(n**0.5)))
    rows = -(-n // columns)
    scale = max(1, -(-SHORTEST_SIDE // min(height, width)))
    tall, wide = height * scale + GAP, width * scale + GAP
    canvas = np.full((rows * tall + GAP, columns * wide + GAP, 3), 255, np.uint8)
    for i, image in enumerate(images):
        y, x = GAP + i // columns * tall, GAP + i % columns * wide
        canvas[y : y + tall - GAP, x : x + wide - GAP] = image.repeat(scale, axis=0).repeat(scale, axis=1)
    return Image.fromarray(canvas)


def completion_figure(originals: Images, completions: NDArray[np.uint8], given: NDArray[np.bool_]) -> Image.Image:
    """One row per image, as on the first page of the paper: what was given (the pixels where `given` (H, W) is True),
    the completions (N, n, H, W, 3), the original.
    """
    shown = np.where(given[..., None], originals, np.uint8(HIDDEN))
    rows = np.concatenate([shown[:, None], completions, originals[:, None]], axis=1)  # (N, n + 2, H, W, 3)
    return grid(rows.reshape(-1, *originals.shape[1:]), columns=rows.shape[1])


def fill_figure(originals: Images, masks: NDArray[np.bool_], filled: Images) -> Image.Image:
    """One row per image: what a masked model saw (masks (N, H, W) in gray), what it predicted, the original."""
    seen = np.where(masks[..., None], np.uint8(HIDDEN), originals)
    rows = np.stack([seen, filled, originals], axis=1)  # (N, 3, H, W, 3)
    return grid(rows.reshape(-1, *originals.shape[1:]), columns=3)


def swatches(colors: NDArray[np.uint8], rows: int = 16) -> Image.Image:
    """The colors (k, 3), ordered: grays on the left, then by hue, and from light to dark in each column."""
    hls = np.array([colorsys.rgb_to_hls(*(c / 255.0)) for c in colors])
    chroma = (colors.max(axis=1).astype(int) - colors.min(axis=1)) / 255
    hue = np.where(chroma < 0.08, -1.0, hls[:, 0])
    by_hue = np.lexsort((hls[:, 1], hue))
    columns = [column[np.argsort(-hls[column, 1])] for column in np.split(by_hue, range(rows, len(by_hue), rows))]
    canvas = np.full((rows, len(columns), 3), 255, np.uint8)
    for x, column in enumerate(columns):
        canvas[: len(column), x] = colors[column]
    return Image.fromarray(canvas.repeat(16, axis=0).repeat(16, axis=1))


def quantized_strip(originals: Images, quantized: Images) -> Image.Image:
    """Originals in the upper row, quantized in the lower one."""
    return grid(np.concatenate([originals, quantized]), columns=len(originals))


def loss_curve(metrics: Path) -> Image.Image:
    """Training and validation nats per token at each step, from a run's metrics.csv."""
    rows = list(read_rows(metrics))
    figure, axes = new_plot(6, 4)
    for name, style in (("train/nats_per_token", {"lw": 1, "alpha": 0.6}), ("val/nats_per_token", {"marker": "o"})):
        points = [(int(row["step"]), float(row[name])) for row in rows if row.get(name)]
        if points:
            axes.plot(*zip(*points, strict=True), label=name, **style)
    axes.set(xlabel="step", ylabel="nats per token")
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend()
    return render(figure)


def confusion(matrix: NDArray[np.int64], classes: Sequence[str]) -> Image.Image:
    """A confusion matrix (K, K): rows are true classes, columns predicted ones.

    Colors show shares of a row. With many classes, counts are left out; with very many, names too.
    """
    side = min(0.6 * len(classes), 12)  # inches
    figure, axes = new_plot(1.5 + side, 1.2 + side)
    share = matrix / np.maximum(1, matrix.sum(axis=1, keepdims=True))
    shown = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    if len(classes) <= MOST_COUNTED:
        for (row, column), count in np.ndenumerate(matrix):
            color = readable_on(shown.cmap(share[row, column]))
            axes.text(column, row, str(count), ha="center", va="center", fontsize=8, color=color)
    if len(classes) <= MOST_NAMED:
        ticks, points = range(len(classes)), min(10, 72 * side / len(classes) / 1.2)  # a name is as high as its row
        slant = {"rotation": 45, "ha": "right"} if len(classes) <= MOST_COUNTED else {"rotation": 90}
        axes.set_xticks(ticks, classes, fontsize=points, **slant)
        axes.set_yticks(ticks, classes, fontsize=points)
    axes.set(xlabel="predicted class", ylabel="true class")
    return render(figure)


def readable_on(background: Sequence[float]) -> str:
    """Black or white, whichever has the higher contrast with a color (red, green, blue, ... in [0, 1])."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in background[:3]]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "black" if (luminance + 0.05) / 0.05 >= 1.05 / (luminance + 0.05) else "white"  # WCAG's contrast ratios


def probe_curve(rows: Sequence[dict[str, Any]], majority: float) -> Image.Image:
    """Test accuracy of the linear probe at each layer, as in figure 2 of the paper.

    Features without layers are horizontal lines, and so is the share of the most frequent class. Bands reach one
    standard error up and down.
    """
    figure, axes = new_plot(6.4, 4.2)
    for kind in dict.fromkeys(row["features"] for row in rows):
        layers = [row["layer"] for row in rows if row["features"] == kind]
        accuracy = [100 * row["test_accuracy"] for row in rows if row["features"] == kind]
        if len(layers) > 1:
            errors = [100 * row["test_accuracy_error"] for row in rows if row["features"] == kind]
            (line,) = axes.plot(layers, accuracy, marker="o", label=kind)
            low, high = ([a + sign * e for a, e in zip(accuracy, errors, strict=True)] for sign in (-1, 1))
            axes.fill_between(layers, low, high, color=line.get_color(), alpha=0.15, lw=0)
        else:
            axes.axhline(accuracy[0], ls="--", color=f"C{len(axes.lines)}", label=kind)
    axes.axhline(100 * majority, ls=":", color="gray", label="most frequent class")
    axes.set(xlabel="layer", ylabel="test accuracy of a linear probe, %")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return render(figure)


def heat_map(values: NDArray[np.float32], label: str) -> Image.Image:
    """One value per pixel (H, W), with a scale; NaN is left blank."""
    figure, axes = new_plot(4.6, 4)
    shown = axes.imshow(values, cmap="viridis")
    figure.colorbar(shown, label=label)
    axes.set(xlabel="column", ylabel="row")
    for axis in (axes.xaxis, axes.yaxis):
        axis.get_major_locator().set_params(integer=True)
    return render(figure)


def attention(
    images: Images, pixels: Sequence[Sequence[int]], maps: NDArray[np.float32], layers: Sequence[int]
) -> Image.Image:
    """The attention of pixels, [row, column] each, in some layers: maps (N, pixels, layers, H, W).

    A row shows the image with the pixel in magenta, and then each layer, from the least attention to the most. Pixels
    whose attention is NaN are gray.
    """
    from matplotlib import colormaps

    marked = images.repeat(len(pixels), axis=0)  # (N * pixels, H, W, 3)
    for i, image in enumerate(marked):
        image[tuple(pixels[i % len(pixels)])] = (255, 0, 255)
    largest = np.nanmax(maps, axis=(-2, -1), keepdims=True, initial=1e-9)
    colors = (255 * colormaps["viridis"](np.nan_to_num(maps) / largest)[..., :3]).astype(np.uint8)
    colors[np.isnan(maps)] = HIDDEN
    rows = np.concatenate([marked[:, None], colors.reshape(len(marked), *colors.shape[2:])], axis=1)
    labels = ["image", *(f"layer {layer}" for layer in layers)]
    return labeled_columns(grid(rows.reshape(-1, *images.shape[1:]), len(labels)), labels)


def labeled_columns(picture: Image.Image, labels: Sequence[str]) -> Image.Image:
    """A grid of images, with a label above each column."""
    from PIL import ImageDraw

    above = 16  # pixels
    canvas = Image.new("RGB", (picture.width, picture.height + above), "white")
    canvas.paste(picture, (0, above))
    draw = ImageDraw.Draw(canvas)
    for i, label in enumerate(labels):
        draw.text(((i + 0.5) * picture.width / len(labels), above / 2), label, fill="black", anchor="mm")
    return canvas


def new_plot(width: float, height: float) -> tuple[Any, Any]:
    """A matplotlib figure of this size in inches, and its axes; matplotlib's global state is not used."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    return figure, figure.subplots()


def render(figure: Any) -> Image.Image:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def save(figure: Image.Image, path: Path) -> Path:
    """Write a PNG atomically; return its path."""
    with atomic_path(path) as temporary:
        figure.save(temporary)
    return path
