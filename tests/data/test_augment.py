import itertools

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from PIL import Image
from scipy.stats import chisquare

from igpt import counter_rng
from igpt.data.augment import Flip, Identity, ImageNetCrop, PadCropFlip, resize
from igpt.errors import IgptError

KINDS = [Identity(), Flip(), PadCropFlip(), PadCropFlip(padding=2, flip=False), ImageNetCrop(resolution=8)]


def splitmix(seed, *counters):
    """The same computation with Python's unbounded integers."""
    mask, state = 2**64 - 1, seed
    for counter in counters:
        state = (state + counter * 0x9E3779B97F4A7C15 + 1) & mask
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
        state ^= state >> 31
    return (state >> 11) / 2**53


def noise(*shape, seed=0):
    return torch.randint(256, (*shape, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def samples(n, epoch=0):
    return torch.full((n,), epoch), torch.arange(n)


def pillow(image, resolution, box=None):
    return np.asarray(Image.fromarray(image.numpy()).resize((resolution,) * 2, Image.Resampling.BILINEAR, box=box))


def assert_within_one_level(ours, theirs):
    assert np.abs(ours.numpy().astype(int) - np.stack(theirs)).max() <= 1


def test_counter_random_numbers_equal_python_integers():
    first, second = torch.arange(50), torch.arange(50) * 7 + 3
    expected = [splitmix(42, a, b) for a, b in zip(first.tolist(), second.tolist(), strict=True)]
    assert counter_rng.uniform(42, first, second).tolist() == expected
    assert (counter_rng.integers(42, first.numpy(), second.numpy()) / 2**53).tolist() == expected


def test_counter_random_numbers_are_uniform_and_uncorrelated():
    values = counter_rng.uniform(0, torch.arange(300)[:, None], torch.arange(300)).numpy()
    histogram = np.histogram(values, bins=20, range=(0, 1))[0] / values.size
    np.testing.assert_allclose(histogram, 0.05, atol=0.003)
    assert abs(np.corrcoef(values[:-1].ravel(), values[1:].ravel())[0, 1]) < 0.01
    assert abs(np.corrcoef(values[:, :-1].ravel(), values[:, 1:].ravel())[0, 1]) < 0.01


@pytest.mark.parametrize("augment", KINDS, ids=repr)
def test_views_depend_on_seed_epoch_and_sample_only(augment):
    images, (epochs, indices) = noise(24, 12, 12), samples(24)
    views = augment(images, 0, epochs, indices)
    assert views.dtype == torch.uint8
    assert views.shape == (24, augment.output_resolution(12), augment.output_resolution(12), 3)
    some = torch.randperm(24)[:7]
    assert torch.equal(augment(images[some], 0, epochs[some], indices[some]), views[some])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(augment(images, 0, epochs, indices), views)
    if not isinstance(augment, Identity):
        assert not torch.equal(augment(images, 0, epochs + 1, indices), views)
        assert not torch.equal(augment(images, 0, epochs, indices + 1), views)
        assert not torch.equal(augment(images, 1, epochs, indices), views)


def test_identity_returns_the_images_unchanged():
    images = noise(3, 5, 5)
    assert torch.equal(Identity()(images, 0, *samples(3)), images)
    assert torch.equal(PadCropFlip(padding=0, flip=False)(images, 0, *samples(3)), images)
    assert torch.equal(resize(images, 5), images)
    assert torch.equal(resize(images, 5, torch.tensor([0, 0, 5, 5])), images)


def test_half_of_the_images_are_flipped():
    images = noise(1, 4, 4).expand(4000, -1, -1, -1)
    views = Flip()(images, 0, *samples(4000))
    mirrored, same = ((views == expected).flatten(1).all(1) for expected in (images.flip(2), images))
    assert (mirrored ^ same).all()
    assert 0.46 < mirrored.float().mean() < 0.54


@pytest.mark.parametrize("flip", [True, False])
def test_cifar_views_are_every_crop_of_the_reflected_image_equally_often(flip):
    image = noise(10, 10).numpy()
    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)), mode="reflect")
    crops = [padded[y : y + 10, x : x + 10] for y, x in itertools.product(range(9), repeat=2)]
    crops += [crop[:, ::-1] for crop in crops] if flip else []
    number = {crop.tobytes(): i for i, crop in enumerate(crops)}
    assert len(number) == (162 if flip else 81)

    images = torch.from_numpy(image).expand(16200, -1, -1, -1)
    views = PadCropFlip(4, flip)(images, 0, *samples(16200)).numpy()
    counts = np.bincount([number[view.tobytes()] for view in views], minlength=len(number))
    assert chisquare(counts).pvalue > 1e-3


def test_every_image_of_a_batch_is_cropped_from_itself():
    images = noise(50, 6, 6)
    for image, view in zip(images, PadCropFlip(3)(images, 0, *samples(50)), strict=True):
        padded = np.pad(image.numpy(), ((3, 3), (3, 3), (0, 0)), mode="reflect")
        crops = [padded[y : y + 6, x : x + 6] for y, x in itertools.product(range(7), repeat=2)]
        assert any(np.array_equal(view, c) or np.array_equal(view, c[:, ::-1]) for c in crops)


@given(
    seed=st.integers(0, 2**31), height=st.integers(1, 60), width=st.integers(1, 60), resolution=st.integers(1, 60),
)  # fmt: skip
def test_resizing_agrees_with_pillow(seed, height, width, resolution):
    rng = np.random.default_rng(seed)
    lower, upper = np.sort(rng.uniform(size=(2, 2, 2)), axis=0)
    boxes = np.concatenate([lower, upper * 0.99 + 0.01], axis=1) * [width, height, width, height]
    images = noise(2, height, width, seed=seed)
    assert_within_one_level(
        resize(images, resolution, torch.from_numpy(boxes)),
        [pillow(image, resolution, tuple(box)) for image, box in zip(images, boxes, strict=True)],
    )
    assert_within_one_level(resize(images, resolution), [pillow(image, resolution) for image in images])


@pytest.mark.parametrize("axis", [1, 2])
def test_resizing_along_one_side_equals_pillow(axis):
    """Pillow then makes only one pass, and rounds once, as we do."""
    images = noise(5, 40, 40)
    images = images.narrow(3 - axis, 0, 1).expand_as(images)  # all rows, or all columns, are equal
    for resolution in (7, 32, 64):
        for ours, image in zip(resize(images, resolution), images, strict=True):
            np.testing.assert_array_equal(ours, pillow(image, resolution))


def test_resizing_keeps_constant_images():
    for level in (0, 1, 127, 254, 255):
        images = torch.full((4, 500, 500, 3), level, dtype=torch.uint8)
        for resolution in (1, 32, 37):
            assert (resize(images, resolution) == level).all()


def boxes_in_squares(augment, stored, seed, epochs, indices):
    """The crops (B, 4) in images of side `stored`."""
    sides = np.full(len(indices), stored)
    return np.concatenate(augment.boxes(np.stack([sides, sides]), stored, seed, epochs.numpy(), indices.numpy())).T


@pytest.mark.parametrize(("stored", "resolution"), [(64, 32), (48, 64), (224, 32)])
def test_imagenet_views_are_pillows_resize_of_their_boxes(stored, resolution):
    augment = ImageNetCrop(resolution)
    images, view = noise(12, stored, stored), (3, *samples(12, epoch=5))
    boxes = boxes_in_squares(augment, stored, *view).tolist()
    theirs = [pillow(image, resolution, tuple(box)) for image, box in zip(images, boxes, strict=True)]
    assert_within_one_level(augment(images, *view), theirs)


def test_imagenet_boxes_are_crops_at_whole_places_of_every_size_equally_often():
    stored, n = 96, 12900
    boxes = boxes_in_squares(ImageNetCrop(), stored, 0, *samples(n))
    assert boxes.min() >= 0
    assert boxes.max() <= stored
    sides = 224 * stored / (boxes[:, 2] - boxes[:, 0])
    in_photo = boxes * sides[:, None] / stored
    np.testing.assert_allclose(sides, sides.round(), atol=1e-9)
    np.testing.assert_allclose(in_photo, in_photo.round(), atol=1e-9)
    np.testing.assert_allclose(in_photo[:, 2:] - in_photo[:, :2], 224, atol=1e-9)
    assert chisquare(np.bincount(sides.round().astype(int) - 256, minlength=129)).pvalue > 1e-3
    for corner in in_photo[:, :2].T:  # uniform in 0 .. side - 224, if noise below 1 is added
        place = (corner.round() + np.random.default_rng(0).uniform(size=n)) / (sides.round() - 224 + 1)
        assert chisquare(np.histogram(place, bins=50, range=(0, 1))[0]).pvalue > 1e-3


def test_imagenet_boxes_reach_both_ends_of_the_range():
    boxes = boxes_in_squares(ImageNetCrop(shorter_side=(5, 5), crop=4), 5, 0, *samples(100))
    assert {tuple(corner) for corner in boxes[:, :2].tolist()} == {(0, 0), (0, 1), (1, 0), (1, 1)}


@pytest.mark.parametrize(
    "make",
    [
        lambda: PadCropFlip(4).output_resolution(4),
        lambda: PadCropFlip(4)(noise(2, 4, 4), 0, *samples(2)),
        lambda: PadCropFlip(-1),
        lambda: ImageNetCrop(resolution=0),
        lambda: ImageNetCrop(crop=300),
        lambda: ImageNetCrop(shorter_side=(384, 256)),
    ],
)
def test_impossible_settings_are_refused_by_name(make):
    with pytest.raises(IgptError, match=r"data\.augment\.(padding|resolution|crop)"):
        make()


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("none", Identity()),
        ("flip", Flip()),
        ("cifar", PadCropFlip()),
        ("imagenet", ImageNetCrop(shorter_side=[256, 384])),
    ],
)
def test_choices_on_the_command_line_equal_the_defaults_in_python(choice, expected, pytestconfig):
    augment = OmegaConf.load(pytestconfig.rootpath / "conf" / "data" / "augment" / f"{choice}.yaml")
    config = OmegaConf.create({"data": {"source": {"resolution": 32}, "augment": augment}})
    assert instantiate(config.data.augment, _convert_="all") == expected
