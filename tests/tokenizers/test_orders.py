import numpy as np
import pytest
import torch

from igpt.errors import IgptError
from igpt.tokenizers.orders import ORDERS, order

NAMES = [*ORDERS, "random"]


def ranks(name, side):
    """The position in the sequence of each pixel, as a square."""
    return order(name, side).argsort().reshape(side, side).tolist()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("side", [1, 2, 3, 5, 8, 12, 32])
def test_every_order_goes_to_each_pixel_once(name, side):
    pixels = order(name, side)
    assert pixels.dtype == torch.int64
    assert pixels.sort().values.tolist() == list(range(side * side))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("raster", [[0, 1, 2], [3, 4, 5], [6, 7, 8]]),
        ("column", [[0, 3, 6], [1, 4, 7], [2, 5, 8]]),
        ("serpentine", [[0, 1, 2], [5, 4, 3], [6, 7, 8]]),
        ("spiral", [[0, 1, 2], [7, 8, 3], [6, 5, 4]]),
        ("spiral", [[0, 1, 2, 3], [11, 12, 13, 4], [10, 15, 14, 5], [9, 8, 7, 6]]),
        ("checkerboard", [[0, 5, 1], [6, 2, 7], [3, 8, 4]]),
        ("checkerboard", [[0, 8, 1, 9], [10, 2, 11, 3], [4, 12, 5, 13], [14, 6, 15, 7]]),
        ("hilbert", [[0, 1, 14, 15], [3, 2, 13, 12], [4, 7, 8, 11], [5, 6, 9, 10]]),
        ("hilbert", [[0, 1, 8], [3, 2, 7], [4, 5, 6]]),
    ],
)
def test_orders_are_those_written_by_hand(name, expected):
    expected = np.array(expected)
    if name == "hilbert":  # usually shown with its end on the upper right; ours ends on the lower left
        expected = expected.T
    assert ranks(name, len(expected)) == expected.tolist()


@pytest.mark.parametrize(("name", "side"), [("hilbert", 16), ("hilbert", 32), ("serpentine", 9), ("spiral", 9)])
def test_neighbors_in_the_sequence_are_neighbors_in_the_image(name, side):
    place = np.stack(np.divmod(order(name, side).numpy(), side))
    assert (np.abs(np.diff(place)).sum(axis=0) == 1).all()


@pytest.mark.parametrize("size", [2, 4, 8])
def test_hilbert_fills_one_block_after_another(size):
    """What distinguishes it from other curves without jumps: every aligned block is one piece of the sequence."""
    rows, columns = np.divmod(order("hilbert", 16).numpy(), 16)
    blocks = (rows // size * 16 + columns // size).reshape(-1, size * size)
    assert (blocks == blocks[:, :1]).all()


def test_random_is_fixed_by_its_seed_and_is_no_short_range_shuffle():
    first, again, other = order("random", 32, 1), order("random", 32, 1), order("random", 32, 2)
    assert torch.equal(first, again)
    assert (first == other).sum() < 10  # two permutations agree in one place on average
    distance = (first - torch.arange(1024)).abs().double().mean()
    assert 300 < distance < 380  # a third of the length is expected
    assert order("random", 3, 0).tolist() == [8, 0, 5, 1, 3, 7, 2, 4, 6]  # stored models depend on it


def test_an_unknown_order_is_refused_with_the_names():
    with pytest.raises(IgptError, match="order is 'zigzag'; choose one of raster, .*hilbert, checkerboard, random"):
        order("zigzag", 4)
