"""Build the bundled emoji sheet from the npm package `emoji-datasource-google`.

    npm pack emoji-datasource-google@16.0.0
    python -m igpt.data.emoji.build_sheet emoji-datasource-google-16.0.0.tgz

writes `emoji.png` (all images on white, 32x32 each, 64 per row) and `emoji.csv` (one line per image, in the order of
the sheet) beside this file. The images are Noto Emoji (Apache-2.0), the metadata is MIT; see NOTICE.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CELL = 34  # distance of two images in the source sheet in pixels: 32 and a border of one on each side
SIZE = 32
PER_ROW = 64

GENDER_AND_DIRECTION = {"2640", "2642", "27A1"}
ADULTS = {"1F468", "1F469"}  # man, woman; 1F9D1 is the person


def base_emoji(unified: str) -> str:
    """The emoji that `unified` (code points joined by hyphens) is a variant of.

    Skin tone, gender and direction are dropped: a woman astronaut with dark skin and an astronaut are the same emoji.
    Near-copies of one image must not be in two splits.
    """
    points = [p for p in unified.split("-") if p != "FE0F" and not 0x1F3FB <= int(p, 16) <= 0x1F3FF]
    rest = ["1F9D1" if p in ADULTS else p for p in points if p not in GENDER_AND_DIRECTION]
    joined = [p for p in rest if p != "200D"]
    return "-".join(joined or points)


def split_of(base: str) -> str:
    """The split of a base emoji by a hash of its name: a tenth for test, a tenth for validation."""
    tenth = int(hashlib.sha256(base.encode()).hexdigest(), 16) % 10
    return {0: "test", 1: "validation"}.get(tenth, "train")


def entries(metadata: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Pairs of an emoji and one of its images (the emoji itself, then its skin tones), in the order of Unicode."""
    for emoji in sorted(metadata, key=lambda e: e["sort_order"]):
        if emoji["category"] != "Component":
            for image in (emoji, *emoji.get("skin_variations", {}).values()):
                if image["has_img_google"]:
                    yield emoji, image


def main(package: str) -> None:
    with tarfile.open(package) as tar:
        metadata = json.load(tar.extractfile("package/emoji.json"))  # type: ignore[arg-type]
        sheet_file = tar.extractfile("package/img/google/sheets-clean/32.png")
        source = Image.open(io.BytesIO(sheet_file.read())).convert("RGBA")  # type: ignore[union-attr]
    sheet = Image.alpha_composite(Image.new("RGBA", source.size, "white"), source).convert("RGB")

    rows, images = [], []
    for emoji, image in entries(metadata):
        left, top = image["sheet_x"] * CELL + 1, image["sheet_y"] * CELL + 1
        images.append(np.asarray(sheet.crop((left, top, left + SIZE, top + SIZE))))
        base = base_emoji(image["unified"])
        rows.append((image["unified"], emoji["short_name"], emoji["category"], base, split_of(base)))

    height = -(-len(images) // PER_ROW)
    grid = np.full((height * PER_ROW, SIZE, SIZE, 3), 255, np.uint8)
    grid[: len(images)] = images
    pixels = grid.reshape(height, PER_ROW, SIZE, SIZE, 3).swapaxes(1, 2).reshape(height * SIZE, PER_ROW * SIZE, 3)

    folder = Path(__file__).parent
    Image.fromarray(pixels).save(folder / "emoji.png", optimize=True)
    with open(folder / "emoji.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("unified", "name", "group", "base", "split"))
        writer.writerows(rows)


if __name__ == "__main__":
    main(sys.argv[1])
