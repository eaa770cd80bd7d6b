import numpy as np
import torch

from igpt import counter_rng
from igpt.data.augment import horizontal_flip


def splitmix(seed, *counters):
    """The same chain in Python's unbounded integers."""
    mask, state = 2**64 - 1, seed
    for counter in counters:
        state = (state + counter * 0x9E3779B97F4A7C15 + 1) & mask
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
        state ^= state >> 31
    return (state >> 11) / 2**53


def test_counter_random_numbers_equal_python_integers():
    first, second = torch.arange(50), torch.arange(50) * 7 + 3
    expected = [splitmix(42, a, b) for a, b in zip(first.tolist(), second.tolist(), strict=True)]
    assert counter_rng.uniform(42, first, second).tolist() == expected


def test_counter_random_numbers_are_uniform_and_uncorrelated():
    values = counter_rng.uniform(0, torch.arange(300)[:, None], torch.arange(300)).numpy()
    histogram = np.histogram(values, bins=20, range=(0, 1))[0] / values.size
    np.testing.assert_allclose(histogram, 0.05, atol=0.003)
    assert abs(np.corrcoef(values[:-1].ravel(), values[1:].ravel())[0, 1]) < 0.01
    assert abs(np.corrcoef(values[:, :-1].ravel(), values[:, 1:].ravel())[0, 1]) < 0.01


def test_flips_depend_on_seed_epoch_and_sample_only():
    images = torch.randint(256, (64, 4, 4, 3), dtype=torch.uint8)
    index, epoch = torch.arange(64), torch.zeros(64, dtype=torch.long)
    flipped = horizontal_flip(images, 0, epoch, index)
    order = torch.randperm(64)
    torch.testing.assert_close(horizontal_flip(images[order], 0, epoch, index[order]), flipped[order])
    assert not torch.equal(horizontal_flip(images, 0, epoch + 1, index), flipped)
    assert not torch.equal(horizontal_flip(images, 1, epoch, index), flipped)
    for before, after in zip(images, flipped, strict=True):
        assert torch.equal(after, before) or torch.equal(after, before.flip(1))


def test_half_of_the_images_are_flipped():
    images = torch.arange(2, dtype=torch.uint8)[None, None, :, None].expand(4000, 1, 2, 3)
    flipped = horizontal_flip(images, 0, torch.zeros(4000, dtype=torch.long), torch.arange(4000))
    assert 0.46 < flipped[:, 0, 0, 0].float().mean() < 0.54
