"""Rotary positions against complex numbers in NumPy, and by what they are for: only differences of positions count."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from conftest import random_weights
from igpt.errors import IgptError
from igpt.model.config import TransformerConfig
from igpt.model.rotary import Rotary, cell_coordinates
from igpt.model.transformer import Transformer
from igpt.tokenizers import RGB, Gray, with_order
from igpt.tokenizers.orders import ORDERS, RANDOM, order

TURNED = TransformerConfig(2, 2, 16, vocab_size=11, n_positions=16, positions="none", rotary="2d")
ORDER_NAMES = [*ORDERS, RANDOM]


def turned_by_complex_numbers(x, angles):
    """x (B, t, h, d) with pairs of channels i, i + d / 2 as complex numbers, times e^(i angle), angles (t, d / 2)."""
    real, imaginary = np.split(x.double().numpy(), 2, axis=-1)
    turned = (real + 1j * imaginary) * np.exp(1j * angles[:, None])
    return np.concatenate([turned.real, turned.imag], axis=-1)


@pytest.mark.parametrize("name", ORDER_NAMES)
@pytest.mark.parametrize("tokenizer", [Gray(), RGB()])
def test_2d_turns_by_row_and_column_in_every_order(tokenizer, name):
    side, d, k = 5, 16, tokenizer.tokens_per_cell
    tokens = k * side**2
    config = TransformerConfig(1, 1, d, n_positions=tokens, rotary="2d")
    rotary = Rotary(config, cell_coordinates(with_order(tokenizer, name).grid(tokens)))
    rows, columns = np.divmod(np.repeat(order(name, side).numpy(), k), side)
    frequencies = np.array([1, 100**-0.25, 100**-0.5, 100**-0.75])  # base 100, d / 4 of them
    angles = np.concatenate([np.outer(rows, frequencies), np.outer(columns, frequencies)], axis=1)
    x = torch.randn(2, tokens, 3, d)
    np.testing.assert_allclose(rotary(slice(tokens)).of(x), turned_by_complex_numbers(x, angles), atol=1e-5)
    at = torch.tensor([7, 2])
    np.testing.assert_allclose(rotary(at).of(x[:, at]), turned_by_complex_numbers(x[:, at], angles[at]), atol=1e-5)


def test_1d_turns_by_the_position_in_the_sequence():
    d, tokens = 12, 40
    rotary = Rotary(TransformerConfig(1, 1, d, n_positions=tokens, rotary="1d"))
    angles = np.outer(np.arange(tokens), 10_000.0 ** -(np.arange(6) / 6))
    x = torch.randn(2, tokens, 3, d)
    np.testing.assert_allclose(rotary(slice(tokens)).of(x), turned_by_complex_numbers(x, angles), atol=1e-5)


def test_positions_may_differ_from_image_to_image():
    rotary = Rotary(TURNED)
    at = torch.stack([torch.randperm(16), torch.arange(16)])  # (B, T)
    x = torch.randn(2, 16, 3, 8)
    expected = torch.stack([rotary(each).of(image) for each, image in zip(at, x, strict=True)])
    torch.testing.assert_close(rotary(at).of(x), expected)


def test_scores_depend_on_the_shift_alone():
    """q at (1, 0) and k at (0, 2) is as q at (3, 1) and k at (2, 3); another shift gives another score."""
    rotary, (q, k) = Rotary(TURNED), torch.randn(2, 1, 1, 1, 8).unbind()

    def score(of_q, of_k):
        positions = (torch.tensor([4 * row + column]) for row, column in (of_q, of_k))
        return (rotary(next(positions)).of(q) * rotary(next(positions)).of(k)).sum()

    torch.testing.assert_close(score((1, 0), (0, 2)), score((3, 1), (2, 3)))
    assert not torch.isclose(score((1, 0), (0, 2)), score((1, 0), (2, 0)), rtol=1e-3)


def test_a_masked_model_without_other_positions_ignores_a_shift_of_the_image():
    """Its logits at the right half of a grid, where nothing else is attended to, are those of the left half."""
    model = random_weights(replace(TURNED, causal=False))
    shifted = Transformer(model.config, model.coordinates + torch.tensor([3, 5]))
    moved = {**model.state_dict(), "rotary.coordinates": shifted.coordinates}
    shifted.load_state_dict(moved)
    tokens = torch.randint(11, (2, 16))
    torch.testing.assert_close(shifted(tokens), model(tokens), rtol=1e-4, atol=1e-4)
    stretched = Transformer(model.config, model.coordinates * 2)
    stretched.load_state_dict({**moved, "rotary.coordinates": stretched.coordinates})
    assert not torch.allclose(stretched(tokens), model(tokens), atol=1e-2)


@pytest.mark.parametrize("name", ORDER_NAMES)
def test_a_masked_model_computes_the_same_in_every_order(name):
    """Attention without a causal mask knows the grid from the coordinates alone."""
    raster = random_weights(replace(TURNED, causal=False))
    model = Transformer(raster.config, cell_coordinates(with_order(Gray(), name).grid(16)))
    model.load_state_dict({**raster.state_dict(), "rotary.coordinates": model.coordinates})
    tokens, places = torch.randint(11, (2, 16)), order(name, 4)
    torch.testing.assert_close(model(tokens[:, places]), raster(tokens)[:, places], rtol=1e-4, atol=1e-4)


def test_without_coordinates_they_are_those_of_raster_order():
    for tokenizer in (Gray(), RGB()):
        tokens = tokenizer.n_tokens(6)
        found = Transformer(replace(TURNED, n_positions=tokens)).coordinates
        assert torch.equal(found, cell_coordinates(tokenizer.grid(tokens)))


@pytest.mark.parametrize("rotary", ["1d", "2d"])
def test_coordinates_survive_half_precision(rotary):
    model = Transformer(replace(TURNED, n_positions=128**2, rotary=rotary))
    expected = model.coordinates.clone()
    assert len(expected.unique(dim=0)) == 128**2
    assert torch.equal(model.bfloat16().coordinates, expected)


@pytest.mark.parametrize("rotary", ["1d", "2d"])
def test_angles_do_not_depend_on_the_precision_of_training(rotary):
    """In bf16-true, Lightning makes bfloat16 the type of new tensors while a step computes."""
    turned = Rotary(TransformerConfig(1, 1, 96, n_positions=1024, rotary=rotary))
    expected = turned(slice(1024))
    torch.set_default_dtype(torch.bfloat16)
    try:
        found = turned(slice(1024))
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"rotary": "3d"}, "it must be 1d, 2d or null"), ({"rotary": "2d", "n_head": 8}, "multiple of 4 channels")],
)
def test_impossible_choices_are_refused(change, message):
    with pytest.raises(IgptError, match=message):
        replace(TURNED, **change)
