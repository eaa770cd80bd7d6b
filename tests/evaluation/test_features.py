"""Features of images: baselines that follow the data."""

import numpy as np
import torch

from igpt.data.datamodule import ImageDataModule
from igpt.data.packed import PackedImages
from igpt.data.sources import SPLITS, ArraysSource
from igpt.evaluation.features import raw_pixels
from igpt.tokenizers import Gray


def data_of(images, folder):
    """Data whose splits are `images`."""
    arrays = {f"{split}_images": images[split] for split in SPLITS}
    arrays |= {f"{split}_labels": np.arange(len(images[split])) % 2 for split in SPLITS}
    data = ImageDataModule(ArraysSource(arrays=arrays, resolution=4), 2, str(folder), 3, tokenizer=Gray())
    data.prepare_data()
    data.setup()
    return data


def test_raw_pixels_have_one_channel_only_where_all_images_are_gray(tmp_path):
    rng = np.random.default_rng(0)
    images = {split: rng.integers(256, size=(8, 4, 4, 1), dtype=np.uint8) for split in SPLITS}
    data = data_of(images, tmp_path)
    kind, batch = raw_pixels(data), next(data.labeled_images("test"))
    assert kind.shape == (1, 16)
    np.testing.assert_array_equal(kind.pooled(batch)[0].numpy(), images["test"][:3].reshape(3, 16) / np.float32(255))

    colored = {split: np.repeat(images[split], 3, axis=-1) for split in SPLITS}
    colored["test"][7, 3, 2, 1] ^= 1  # the last image of the last split; all batches before it are gray
    data = data_of(colored, tmp_path)
    kind, batch = raw_pixels(data), next(data.labeled_images("train"))
    assert kind.shape == (1, 48)
    assert kind.pooled(batch).shape == (1, 3, 48)
    assert torch.equal(kind.pooled(batch)[0].view(3, 4, 4, 3), batch.images / 255)


def test_color_is_found_in_any_part_of_a_split():
    images = np.full((9000, 2, 2, 3), 7, np.uint8)
    split = PackedImages(images, np.zeros(9000, np.int64), np.zeros(9000, np.int64))
    assert split.are_gray()
    images[8999, 1, 1, 2] = 8
    assert not split.are_gray()
