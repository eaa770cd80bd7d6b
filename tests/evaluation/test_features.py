"""Features of images: averages over regions, and baselines that follow the data."""

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import random_weights
from igpt.batch import TokenBatch
from igpt.data.datamodule import ImageDataModule
from igpt.data.packed import PackedImages
from igpt.data.sources import SPLITS, ArraysSource
from igpt.errors import IgptError
from igpt.evaluation.features import network_features, raw_pixels, untrained
from igpt.evaluation.probe_heads import AttentiveHeads
from igpt.model.config import TransformerConfig
from igpt.objectives.tasks import Autoregressive, Masked
from igpt.pretrained import Pretrained
from igpt.tokenizers import RGB, Gray, with_order

sys.path.append(str(Path(__file__).parents[1] / "integration"))
from coarse_tokenizer import Coarse


def model_of(tokenizer, side, task):
    shape = {"vocab_size": tokenizer.vocab_size, "n_positions": tokenizer.n_tokens(side), "causal": task.causal}
    config = TransformerConfig(n_layer=2, n_head=2, n_embd=8, **shape)
    return Pretrained(random_weights(config), tokenizer, task, batch_size=3)


def positions_of(tokenizer, side):
    """The places in the sequence of the tokens that change with each pixel, found by changing it."""
    black = torch.zeros(1, side, side, 3, dtype=torch.uint8)
    tokens, found = tokenizer.encode(black), {}
    for row in range(side):
        for column in range(side):
            white = black.clone()
            white[0, row, column] = 255
            found[row, column] = (tokenizer.encode(white) != tokens)[0].nonzero().flatten().tolist()
    return found


def means_of_regions(sequence, positions, bounds):
    """For each region the average over its pixels of the average over the tokens of the pixel."""
    means = []
    for top, bottom in pairwise(bounds):
        for left, right in pairwise(bounds):
            pixels = [positions[row, column] for row in range(top, bottom) for column in range(left, right)]
            means.append(torch.stack([sequence[:, at].mean(dim=1) for at in pixels]).mean(dim=0))
    return torch.cat(means, dim=1)  # (N, g * g * C)


TASKS = [Autoregressive(), Masked()]


@pytest.mark.parametrize("task", TASKS, ids=["ar", "mlm"])
@pytest.mark.parametrize("order", ["raster", "spiral", "hilbert", "random"])
@pytest.mark.parametrize("tokenizer", [Gray(), RGB(), Coarse(256)], ids=["gray", "rgb", "coarse"])
@pytest.mark.parametrize(("regions", "bounds"), [(2, (0, 4, 8)), (3, (0, 3, 6, 8)), (8, range(9))])
def test_regions_hold_the_averages_of_their_pixels(task, order, tokenizer, regions, bounds):
    tokenizer = with_order(tokenizer, order, seed=3)
    model = model_of(tokenizer, 8, task)
    images = np.random.default_rng(0).integers(256, size=(5, 8, 8, 3), dtype=np.uint8)
    with torch.no_grad():
        sequences = list(model.model.layer_inputs(model.tokenize(images)))
    positions = positions_of(tokenizer, 8)
    expected = [means_of_regions(x, positions, bounds) for x in sequences]
    features = model.features(images, regions=regions)
    np.testing.assert_allclose(features, torch.stack(expected, dim=1).numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(model.features(images, layer=1, regions=regions), features[:, 1])


@pytest.mark.parametrize("task", TASKS, ids=["ar", "mlm"])
def test_one_region_is_the_average_over_the_sequence_bitwise(task):
    model = model_of(Gray(), 4, task)
    images = np.random.default_rng(0).integers(256, size=(3, 4, 4, 3), dtype=np.uint8)
    with torch.no_grad():
        expected = torch.stack([x.mean(dim=1) for x in model.model.layer_inputs(model.tokenize(images))], dim=1)
    np.testing.assert_array_equal(model.features(images, regions=1), expected.numpy())


def test_regions_of_masked_features_average_over_the_masks():
    model = model_of(with_order(Gray(), "spiral"), 4, Masked())
    images = np.random.default_rng(0).integers(256, size=(3, 4, 4, 3), dtype=np.uint8)
    tokens, indices = model.tokenize(images), torch.arange(3)
    batch, masking = TokenBatch(tokens, indices, indices, 0 * indices), model.task.masking
    expected = []
    for number in range(2):
        seen = masking.apply(masking.fixed(batch, number), 256)
        with torch.no_grad():
            sequences = list(model.model.layer_inputs(seen.tokens, seen.masked))
        positions = positions_of(model.tokenizer, 4)
        expected.append(torch.stack([means_of_regions(x, positions, (0, 2, 4)) for x in sequences], dim=1))
    features = model.features(images, masks=2, regions=2)
    np.testing.assert_allclose(features, torch.stack(expected).mean(dim=0).numpy(), rtol=1e-4, atol=1e-5)
    assert not np.allclose(features, model.features(images, regions=2))


def test_kinds_of_features_with_regions(tmp_path):
    """Shapes, names and keys; the trained and the untrained network; what attention pooling returns beside classes."""
    images = {split: np.random.default_rng(0).integers(256, size=(3, 4, 4, 3), dtype=np.uint8) for split in SPLITS}
    data, model = data_of(images, tmp_path), model_of(Gray(), 4, Autoregressive())
    (batch,) = data.labeled_images("test")
    keys = {str(network_features("trained", model, data).key)}
    for regions in (2, 4):
        for name, network in (("trained", model), ("untrained", untrained(model))):
            kind = network_features(name, network, data, regions=regions)
            pooled = kind.pooled(batch)
            assert kind.name == f"{name} {regions}x{regions} regions"
            assert pooled.shape == (3, 3, kind.shape[1]) == (kind.shape[0], 3, regions**2 * 8)
            np.testing.assert_array_equal(pooled, network.features(images["test"], regions=regions).swapaxes(0, 1))
            heads = AttentiveHeads(n_layers=3, width=8, n_heads=2, n_classes=2, seed=0)
            with torch.no_grad():
                means, _ = heads(kind.sequences(batch), regions=kind.regions)
            assert torch.equal(means, pooled)
            keys.add(str(kind.key))
    assert len(keys) == 5


def test_features_in_bfloat16_are_those_in_float32_up_to_rounding(tmp_path):
    images = {split: np.random.default_rng(0).integers(256, size=(3, 4, 4, 3), dtype=np.uint8) for split in SPLITS}
    data, model = data_of(images, tmp_path), model_of(Gray(), 4, Autoregressive())
    (batch,) = data.labeled_images("test")
    exact, rounded = (network_features("trained", model, data, bfloat16=bfloat16) for bfloat16 in (False, True))
    assert rounded.pooled(batch).dtype == torch.float32
    assert not torch.equal(rounded.pooled(batch), exact.pooled(batch))
    torch.testing.assert_close(rounded.pooled(batch), exact.pooled(batch), rtol=0.02, atol=0.02)
    means = []
    with torch.no_grad():
        for layer in rounded.sequences(batch):
            assert not torch.is_autocast_enabled("cpu")  # what attention pooling computes
            means.append(layer.mean(dim=1))
    torch.testing.assert_close(torch.stack(means), rounded.pooled(batch))


@pytest.mark.parametrize("regions", [0, 5])
def test_regions_smaller_than_a_pixel_are_refused(regions):
    with pytest.raises(IgptError, match=f"regions is {regions}; an image of 4x4 pixels has 1 to 4 regions per side"):
        model_of(Gray(), 4, Autoregressive()).features(np.zeros((1, 4, 4, 3), np.uint8), regions=regions)


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
