import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from igpt.errors import IgptError
from igpt.tokenizers import Palette, tokenizer_from_state, tokenizer_state
from igpt.tokenizers.nearest import nearest_table


def brute_force(centroids, colors):
    """Nearest centroid in float64, ties to the lower index: numpy's argmin takes the first."""
    parts = np.array_split(colors.astype(np.float64)[:, None], 1 + len(colors) * len(centroids) // 10**6)
    return np.concatenate([((part - centroids.astype(np.float64)) ** 2).sum(-1).argmin(-1) for part in parts])


def code(colors):
    return colors.astype(int) @ [65536, 256, 1]


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 17, 300]), st.booleans())
def test_table_equals_brute_force(seed, k, whole):
    rng = np.random.default_rng(seed)
    centroids = rng.uniform(0, 255, (k, 3)).astype(np.float32)
    if whole:  # whole numbers close to each other: many exact ties, and duplicates
        centroids = rng.integers(100, 110, (k, 3)).astype(np.float32)
    colors = rng.integers(0, 256, (4000, 3), dtype=np.uint8)
    colors[:2000] = rng.integers(95, 115, (2000, 3))
    np.testing.assert_array_equal(nearest_table(centroids)[code(colors)], brute_force(centroids, colors))


def gray_diagonal(k):
    return np.linspace(0, 255, k)[:, None].repeat(3, axis=1)


def dark(k):
    return np.random.default_rng(0).integers(0, 32 * 256, (k, 3)) / 256


def equal_and_whole(k):
    """Whole numbers between 100 and 104: most centroids equal others, most colors are as far from two of them."""
    return np.random.default_rng(0).integers(100, 105, (k, 3))


@pytest.mark.parametrize(
    ("make", "k"), [(gray_diagonal, 512), (dark, 512), (dark, 4096), (equal_and_whole, 600)]
)  # fmt: skip
def test_table_of_concentrated_centroids_equals_brute_force(make, k):
    """Everywhere in the cube, and on all colors near some of the centroids."""
    centroids = make(k).astype(np.float32)
    rng = np.random.default_rng(1)
    around = np.stack(np.meshgrid(*3 * [np.arange(-2, 3)]), axis=-1).reshape(-1, 3)
    near = (np.rint(centroids[rng.integers(k, size=20), None]) + around).clip(0, 255).reshape(-1, 3)
    colors = np.concatenate([rng.integers(0, 256, (2000, 3)), near.astype(int)])
    np.testing.assert_array_equal(nearest_table(centroids)[code(colors)], brute_force(centroids, colors))


def test_ties_go_to_the_lower_index():
    table = nearest_table(np.array([[10.0, 0, 0], [0, 0, 0], [10, 0, 0]]))
    assert table[5 << 16] == 0  # as far from black as from the red
    assert table[10 << 16] == 0  # the two reds are the same


def test_encode_is_raster_order_and_decode_its_inverse_on_palette_colors():
    colors = np.random.default_rng(0).permutation(256)[:48].reshape(16, 3)
    palette = Palette(colors)
    tokens = torch.randint(16, (5, 64))
    images = palette.decode(tokens)
    assert images.shape == (5, 8, 8, 3)
    assert images.dtype == torch.uint8
    np.testing.assert_array_equal(images[2, 3, 4], colors[tokens[2, 3 * 8 + 4]])
    torch.testing.assert_close(palette.encode(images), tokens)
    assert palette.encode(images[:0]).shape == (0, 64)


def test_fingerprint_stands_for_the_colors():
    colors = np.arange(12.0).reshape(4, 3)
    assert Palette(colors).fingerprint == Palette(colors, {"source": "elsewhere"}).fingerprint
    assert Palette(colors).fingerprint != Palette(colors[::-1]).fingerprint


def test_a_palette_cannot_be_changed():
    colors = np.arange(12.0, dtype=np.float32).reshape(4, 3)
    palette = Palette(colors)
    colors[0] = 200
    assert palette.centroids[0, 0] == 0
    with pytest.raises(ValueError, match="read-only"):
        palette.centroids[0] = 1


def test_saved_and_loaded_and_carried_in_a_checkpoint(tmp_path):
    palette = Palette(np.random.default_rng(0).uniform(0, 255, (7, 3)), {"source": "here", "psnr_db": 30.5})
    palette.save(tmp_path / "palette.npz")
    torch.save(tokenizer_state(palette), tmp_path / "state.pt")
    for other in (
        Palette.load(tmp_path / "palette.npz"),
        tokenizer_from_state(torch.load(tmp_path / "state.pt", weights_only=True)),
    ):
        assert other.fingerprint == palette.fingerprint
        assert other.info == palette.info
    assert [f.name for f in tmp_path.iterdir() if f.suffix == ".npz"] == ["palette.npz"]


def test_openais_centroids_are_read_and_decoded_as_released(tmp_path):
    centers = np.random.default_rng(0).uniform(-1, 1, (512, 3))
    np.save(tmp_path / "kmeans_centers.npy", centers)
    palette = Palette.load(tmp_path / "kmeans_centers.npy")
    np.testing.assert_array_equal(palette.colors, np.rint(127.5 * (centers.astype(np.float32) + 1)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no palette at"),
        (b"nonsense", "not a palette"),
        (b"", "not a palette"),
        (b"PK\3\4" + 90 * b"0", "not a palette"),
    ],
)
def test_files_that_are_no_palette(tmp_path, content, message):
    path = tmp_path / "palette.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(IgptError, match=message) as caught:
        Palette.load(path)
    assert "pickle" not in str(caught.value)  # numpy's words


@pytest.mark.parametrize(
    "bad", [np.zeros((3, 4)), np.full((2, 3), 256.0), np.full((2, 3), np.nan), np.zeros((5000, 3))]
)
def test_impossible_colors_are_refused(bad):
    with pytest.raises(IgptError, match="palette"):
        Palette(bad)


def test_only_uint8_images_are_encoded():
    with pytest.raises(TypeError, match="uint8"):
        Palette(np.zeros((1, 3))).encode(torch.zeros(1, 2, 2, 3))
