import json
import sys

import numpy as np
import pytest
from sklearn.cluster import KMeans, kmeans_plusplus

from igpt.errors import IgptError
from igpt.tokenizers.histogram import count_colors
from igpt.tokenizers.kmeans import PaletteRecipe, plus_plus, weighted_kmeans


@pytest.fixture(scope="module")
def pixels():
    """Correlated colors, many of which occur often."""
    rng = np.random.default_rng(0)
    centers = rng.uniform(0, 255, (40, 3))
    return np.clip(centers[rng.integers(40, size=20_000)] + rng.normal(0, 12, (20_000, 3)), 0, 255).astype(np.uint8)


def mean_squared_error(pixels, centroids):
    return (((pixels[:, None] - centroids.astype(np.float64)) ** 2).sum(-1)).min(1).mean()


def test_histogram_equals_numpy_unique(pixels):
    colors, counts = count_colors([pixels[:777], pixels[777:].reshape(-1, 1, 3)])
    expected, expected_counts = np.unique(pixels, axis=0, return_counts=True)
    np.testing.assert_array_equal(colors, expected)
    np.testing.assert_array_equal(counts, expected_counts)


def test_the_error_is_within_three_per_cent_of_scikit_learns_best_of_ten(pixels):
    """On average over seeds: where a single clustering ends is luck."""
    colors, counts = count_colors([pixels])
    points = colors.astype(np.float32)
    ours = [weighted_kmeans(points, counts, 32, iterations=50, seed=seed) for seed in range(3)]
    theirs = KMeans(32, n_init=10, random_state=0).fit(points, sample_weight=counts).cluster_centers_
    assert np.mean([mean_squared_error(pixels, each) for each in ours]) < 1.03 * mean_squared_error(pixels, theirs)


@pytest.mark.parametrize("n", [300, 3000])  # all points begin, or some of them
def test_the_start_looks_at_the_weights(n):
    """Rare colors far away from the frequent ones must not take the centroids, however many they are."""
    rng = np.random.default_rng(0)
    frequent, rare = rng.uniform(0, 60, (n, 3)), rng.uniform(100, 255, (n, 3))
    points = np.concatenate([frequent, rare]).astype(np.float32)
    weights = np.repeat([10_000, 1], n)
    centroids = weighted_kmeans(points, weights, k=8, iterations=1, seed=0)
    assert (centroids.max(axis=1) < 100).sum() >= 7


def test_the_start_is_as_good_as_scikit_learns():
    """Both are greedy k-means++: the error before any iteration, on average over seeds, with weights that matter."""
    rng = np.random.default_rng(0)
    points, weights = rng.uniform(0, 255, (2000, 3)).astype(np.float32), rng.integers(1, 1000, 2000) ** 2
    ours = [plus_plus(points, weights, 20, np.random.default_rng(seed)) for seed in range(30)]
    theirs = [kmeans_plusplus(points, 20, sample_weight=weights, random_state=seed)[0] for seed in range(30)]
    one, other = (np.mean([squared_error(points, weights, each) for each in starts]) for starts in (ours, theirs))
    assert one == pytest.approx(other, rel=0.03)


def squared_error(points, weights, centroids):
    return (((points[:, None] - centroids) ** 2).sum(-1).min(1) * weights).sum()


def test_every_centroid_is_the_weighted_mean_of_its_pixels(pixels):
    """The condition for a local optimum, which depends on the weights."""
    colors, counts = count_colors([pixels])
    centroids = weighted_kmeans(colors.astype(np.float32), counts, k=4, iterations=100, seed=0)
    nearest = ((pixels[:, None] - centroids.astype(np.float64)) ** 2).sum(-1).argmin(1)
    means = np.stack([pixels[nearest == i].mean(0) for i in range(4)])
    np.testing.assert_allclose(centroids, means, atol=0.5)


def test_info_tells_source_and_quality(pixels):
    palette = PaletteRecipe(size=16).build(lambda: [pixels], "some pixels")
    error = ((pixels[:, None] - palette.colors.astype(np.float64)) ** 2).sum(-1).min(1).mean() / 3
    assert palette.info["psnr_db"] == pytest.approx(10 * np.log10(255**2 / error), abs=0.01)
    assert palette.info["source"] == "some pixels"
    assert palette.info["pixels"] == len(pixels)
    assert palette.info["distinct_colors"] == len(np.unique(pixels, axis=0))


def test_the_same_recipe_gives_the_same_palette(pixels):
    recipe = PaletteRecipe(size=16, seed=3)
    assert recipe.build(lambda: [pixels], "a").fingerprint == recipe.build(lambda: [pixels], "b").fingerprint


def test_as_many_colors_as_there_are_lose_nothing():
    few = np.array([[0, 0, 0], [255, 0, 0], [0, 0, 255]], np.uint8).repeat([5, 3, 9], axis=0)
    palette = PaletteRecipe(size=3).build(lambda: [few], "three colors")
    assert {tuple(color) for color in palette.colors.tolist()} == {(0, 0, 0), (255, 0, 0), (0, 0, 255)}
    assert "psnr_db" not in palette.info  # which is infinite, and JSON has no such number
    assert json.loads(json.dumps(palette.info, allow_nan=False))["distinct_colors"] == 3


def test_more_colors_than_there_are_is_an_error():
    few = np.zeros((10, 3), np.uint8)
    with pytest.raises(IgptError, match="a flag: it has 1 distinct colors; set tokenizer.size to 1 or less"):
        PaletteRecipe(size=2).build(lambda: [few], "a flag")


def test_without_faiss_the_message_says_how_to_get_it(monkeypatch, pixels):
    monkeypatch.setitem(sys.modules, "faiss", None)  # importing it now raises ImportError
    with pytest.raises(IgptError, match=r"pip install 'igpt\[cpu\]'"):
        PaletteRecipe(size=2).build(lambda: [pixels], "pixels")
