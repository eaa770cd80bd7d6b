"""Bits per gray value of the test images of Fashion-MNIST at 14x14 pixels, without a network.

python experiments/fashion/lossless_baselines.py
"""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from igpt.data.packed import open_packed, pack
from igpt.data.sources import FashionMNISTSource
from igpt.files import cache_root

SIDE = 14


def main() -> None:
    splits = open_packed(pack(FashionMNISTSource(resolution=SIDE), cache_root()))
    train, test = (splits[split].images[..., 0].reshape(-1, SIDE * SIDE) for split in ("train", "test"))  # (N, 196)
    everywhere = frequencies(train.reshape(-1, 1))
    print(f"frequencies of the gray levels:  {bits(everywhere, test.reshape(-1, 1)):.3f}")
    print(f"their frequencies at each pixel: {bits(frequencies(train), test):.3f}")
    print(f"a PNG file of all images:        {png_bits(test):.3f}")


def frequencies(values: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Shares (columns, 256) of the values in each column of (N, columns); each counts half a time more."""
    counts = np.stack([np.bincount(column, minlength=256) for column in values.T]) + 0.5
    return counts / counts.sum(axis=1, keepdims=True)


def bits(shares: NDArray[np.float64], values: NDArray[np.uint8]) -> float:
    """Mean bits of values (N, columns)."""
    return float(-np.log2(shares[np.arange(len(shares)), values]).mean())


def png_bits(images: NDArray[np.uint8]) -> float:
    """Bits per pixel of one PNG file with all images (N, 196), a hundred in each row."""
    mosaic = images.reshape(-1, 100, SIDE, SIDE).transpose(0, 2, 1, 3).reshape(-1, 100 * SIDE)
    file = io.BytesIO()
    Image.fromarray(mosaic).save(file, "PNG", optimize=True)
    return 8 * len(file.getvalue()) / images.size


if __name__ == "__main__":
    main()
