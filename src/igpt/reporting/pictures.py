"""The pictures of a report: the PNG files of runs, packed without loss into few bytes, within a budget."""

from __future__ import annotations

import base64
import io
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from igpt.files import printable
from igpt.run_directory import RunDirectory

log = logging.getLogger(__name__)

BUDGET = 2_600_000  # bytes of all pictures of a report, before base64
MOST_STEPS = 60  # pictures of one slider
OVER_STEPS = ("samples", "completions", "filled", "position_loss", "attention")  # folders with files step_*.png
FOLDERS = ("figures", "evaluation")  # with pictures of the end
DRAWN = ("curve",)  # figures that the report draws itself
LAST = ("position_loss", "attention")  # figures that are the last ones of those over training
WEBP_SIDE = 16_383  # pixels, the most that WebP allows
# Pictures of enlarged pixels, which browsers must not smooth; plots and unknown ones are smoothed.
PIXELS = ("samples", "completions", "filled", "attention", "palette", "quantized")

CAPTIONS = {
    "samples": "Images generated without a prompt.",
    "completions": "Each row: what the model is given, its completions, and the original.",
    "filled": "Each row: what the model sees, what it fills in, and the original.",
    "palette": "The colors of the palette.",
    "quantized": "Images, and below them the same in the colors of the palette.",
    "confusion": "Rows are true classes, columns predicted ones; colors are shares of a row.",
    "attention": "What the pixel in magenta attends to in each layer, averaged over the heads; gray is not given.",
    "position_loss": "The mean loss at each position of the image.",
}


@dataclass(frozen=True)
class Picture:
    """A picture as a data URI, with its size in pixels. `step` is None for a picture of the end of a run."""

    uri: str
    width: int
    height: int
    step: int | None

    @property
    def bytes(self) -> int:
        return len(self.uri)


@dataclass
class Gallery:
    """Pictures of one kind: per run (by its label) one, or several over the steps of training."""

    title: str
    caption: str
    pixels: bool
    files: dict[str, list[Path]]
    pictures: dict[str, list[Picture]]

    @property
    def steps(self) -> list[int]:
        """The steps of all pictures, ascending; empty for pictures of the end of runs."""
        return sorted({p.step for pictures in self.pictures.values() for p in pictures if p.step is not None})

    @property
    def shown(self) -> dict[str, list[Picture]]:
        """The pictures by run; once only if they are the same in all runs, as palettes often are."""
        first, *others = self.pictures.values()
        return {"these runs": first} if others and all(pictures == first for pictures in others) else self.pictures

    @property
    def left_out(self) -> str:
        """A sentence about files that are not shown, to keep the report small; empty if all are."""
        files = sum(len(files) for files in self.files.values())
        shown = sum(len(pictures) for pictures in self.pictures.values())
        return f"{shown} of {files} pictures are shown; the others are in the run directory." if shown < files else ""


def galleries(runs: dict[str, RunDirectory]) -> list[Gallery]:
    """All pictures of runs by kind: those over training first, then those of the end."""
    found: dict[tuple[str, str], Gallery] = {}
    for label, run in runs.items():
        for folder in OVER_STEPS:
            if files := sorted((run.path / folder).glob("step_*.png"), key=step_of):
                gallery_of(found, folder, folder).files[label] = files
    for label, run in runs.items():
        for folder in FOLDERS:
            for file in sorted((run.path / folder).glob("[!.]*.png")):  # a dot begins a file that is being written
                over_training = (file.stem, file.stem) in found and file.stem in LAST
                if file.stem not in DRAWN and not over_training:
                    gallery_of(found, folder, file.stem).files[label] = [file]
    fill(list(found.values()))
    return list(found.values())


def gallery_of(found: dict[tuple[str, str], Gallery], folder: str, name: str) -> Gallery:
    """The gallery of pictures of this name in this folder, which is created at its first file."""
    kind = next((known for known in CAPTIONS if name == known or name.endswith(f"_{known}")), name)
    title = printable(name[0].upper() + name[1:].replace("_", " "))
    return found.setdefault((folder, name), Gallery(title, CAPTIONS.get(kind, ""), kind in PIXELS, {}, {}))


def fill(found: Sequence[Gallery]) -> None:
    """Read the files of all galleries. The smaller ones are read first, and what they leave is shared by the others."""
    parts = [(gallery, label) for gallery in found for label in gallery.files]
    parts.sort(key=lambda part: sum(file.stat().st_size for file in part[0].files[part[1]]))
    rest = BUDGET * 4 // 3
    for i, (gallery, label) in enumerate(parts):
        gallery.pictures[label] = within(gallery.files[label], rest // (len(parts) - i))
        rest -= sum(picture.bytes for picture in gallery.pictures[label])
    for gallery in found:
        gallery.pictures = {label: gallery.pictures[label] for label in gallery.files}  # in the order of the runs


def within(files: Sequence[Path], budget: int) -> list[Picture]:
    """The pictures of the files, or every second one, every fourth one ..., counted from the last, that fit."""
    every = max(1, -(-len(files) // MOST_STEPS))
    pictures = [p for file in files[::-every] if (p := read_picture(file)) is not None]  # the last one first
    while pictures and sum(picture.bytes for picture in pictures) > budget:
        pictures = pictures[::2] if len(pictures) > 1 else []
    return pictures[::-1]


def read_picture(file: Path) -> Picture | None:
    """The picture in a PNG file, in the smaller one of two formats without loss; None if it cannot be read."""
    try:
        content = file.read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            packed, kind = as_webp(image), "webp"
            size = image.size
    except (OSError, SyntaxError, ValueError) as error:  # Pillow raises all of these for damaged files
        log.warning("%s is left out of the report, because it cannot be read (%s)", file, error)
        return None
    if packed is None or len(packed) >= len(content):
        packed, kind = content, "png"
    uri = f"data:image/{kind};base64,{base64.b64encode(packed).decode()}"
    return Picture(uri, *size, step_of(file) if file.parent.name in OVER_STEPS else None)


def as_webp(image: Image.Image) -> bytes | None:
    """A picture as lossless WebP, about a third of the PNG file; None if it is too large for that."""
    if max(image.size) > WEBP_SIDE:
        return None
    buffer = io.BytesIO()
    image.convert("RGBA" if image.has_transparency_data else "RGB").save(
        buffer, "WEBP", lossless=True, quality=50, method=4, exact=True
    )
    return buffer.getvalue()


def step_of(file: Path) -> int:
    """The step in the name of a file, step_0000020.png."""
    number = re.search(r"\d+", file.stem)
    return int(number[0]) if number else 0
