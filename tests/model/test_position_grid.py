"""Position embeddings at another resolution, against bicubic interpolation in its closed form, and by what they do."""

import dataclasses

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from igpt.commands.build import copy_weights
from igpt.model.config import TransformerConfig
from igpt.model.position_grid import interpolate_positions
from igpt.model.rotary import cell_coordinates
from igpt.model.transformer import Transformer
from igpt.objectives.tasks import Autoregressive, Masked
from igpt.pretrained import Pretrained
from igpt.tokenizers import RGB, Gray, with_order
from igpt.tokenizers.orders import ORDERS, RANDOM, order

NAMES = [*ORDERS, RANDOM]


class Coarse(Gray):
    """The grid of a tokenizer whose cells have 2x2 pixels."""

    cell = 2


def bicubic_matrix(old, new):
    """Each row has the weights of one new pixel: Keys' kernel with a = -3/4, pixel centers, edges repeated."""
    a, matrix = -0.75, np.zeros((new, old))
    for i in range(new):
        center = (i + 0.5) * old / new - 0.5
        for j in range(int(np.floor(center)) - 1, int(np.floor(center)) + 3):
            x = abs(center - j)
            near, far = (a + 2) * x**3 - (a + 3) * x**2 + 1, a * (x**3 - 5 * x**2 + 8 * x - 4)
            matrix[i, min(max(j, 0), old - 1)] += near if x <= 1 else far
    return matrix


def grids(tokenizer, old, new):
    return (tokenizer.grid(tokenizer.tokens_per_cell * side**2) for side in (old, new))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tokenizer", [Gray(), RGB(), Coarse()])
def test_nothing_changes_at_the_same_resolution(tokenizer, name):
    old, new = grids(with_order(tokenizer, name), 5, 5)
    weight = torch.randn(old.numel(), 7, generator=torch.Generator().manual_seed(0))
    assert torch.equal(interpolate_positions(weight, old, new), weight)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("old", "new"), [(4, 8), (6, 4), (5, 13)])
@pytest.mark.parametrize("k", [1, 3])
def test_bicubic_interpolation_on_the_grid(name, old, new, k):
    tokenizer = with_order({1: Gray(), 3: RGB()}[k], name)
    weight = torch.randn(k * old**2, 5, generator=torch.Generator().manual_seed(0))
    raster = np.empty((old**2, k, 5))  # cell, channel of the pixel, channel of the embedding
    raster[order(name, old)] = weight.double().numpy().reshape(old**2, k, 5)
    rows = bicubic_matrix(old, new)
    expected = np.einsum("ij,jlkc,ml->imkc", rows, raster.reshape(old, old, k, 5), rows).reshape(new**2, k, 5)
    found = interpolate_positions(weight, *grids(tokenizer, old, new))
    np.testing.assert_allclose(found, expected[order(name, new)].reshape(k * new**2, 5), rtol=0, atol=1e-5)


def test_a_ramp_stays_a_ramp():
    ramp = (torch.arange(8) + 0.5).expand(8, 8)
    weight = torch.stack([ramp, ramp.T], dim=-1).flatten(0, 1)  # (64, 2)
    found = interpolate_positions(weight, *grids(Gray(), 8, 16)).unflatten(0, (16, 16))
    expected = (torch.arange(16) + 0.5) / 2
    inner = slice(4, 12)  # where no edge is repeated
    within = {"rtol": 0, "atol": 0.05}  # of a pixel; the kernel is exact for ramps only with a = -1/2
    torch.testing.assert_close(found[inner, inner, 0], expected[inner].expand(8, 8), **within)
    torch.testing.assert_close(found[inner, inner, 1], expected[inner, None].expand(8, 8), **within)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tokenizer", [Gray(), RGB()])
@pytest.mark.parametrize("causal", [True, False])
def test_every_position_stays_with_its_pixel(tokenizer, name, causal):
    """A model that predicts every token by its position alone, dark in the upper left quarter, does so at twice the
    resolution, too.
    """
    ordered = with_order(tokenizer, name)
    side, levels = 6, tokenizer.vocab_size
    image = torch.full((1, 2 * side, 2 * side, 3), 255, dtype=torch.uint8)
    image[:, :side, :side] = torch.tensor([0, 255, 0]) if isinstance(tokenizer, RGB) else 0
    small = image[:, ::2, ::2]
    n_tokens = ordered.n_tokens(side)
    shape = TransformerConfig(1, 1, 2, vocab_size=levels, n_positions=n_tokens, causal=causal)
    start = Transformer(shape)
    with torch.no_grad():
        for parameter in start.parameters():
            parameter.zero_()
        start.norm.gain.fill_(1)
        bright = (ordered.encode(small)[0] > 0).float()
        start.position_embedding.weight.copy_(torch.stack([bright, 1 - bright], dim=1))
        start.head.weight[levels - 1, 0] = start.head.weight[0, 1] = 1
    pretrained = Pretrained(start, ordered, Autoregressive() if causal else Masked())
    model = Transformer(dataclasses.replace(shape, n_positions=ordered.n_tokens(2 * side)))
    config = OmegaConf.create({"init_from": "start", "interpolate_positions": True})
    copy_weights(model, pretrained, config, ordered)
    predicted = model(torch.zeros(1, ordered.n_tokens(2 * side), dtype=torch.long)).argmax(dim=-1)
    assert torch.equal(ordered.decode(predicted), image)


@pytest.mark.parametrize("positions", ["learned", "none"])
def test_rotary_positions_are_those_of_the_new_grid(positions):
    """The weights are copied; rows and columns are counted in pixels of either resolution."""
    ordered = with_order(Gray(), "hilbert")
    shape = TransformerConfig(1, 1, 4, vocab_size=256, n_positions=16, positions=positions, rotary="2d")
    small, large = (cell_coordinates(ordered.grid(n)) for n in (16, 64))
    start = Pretrained(Transformer(shape, small), ordered, Autoregressive())
    model = Transformer(dataclasses.replace(shape, n_positions=64), large)
    copy_weights(model, start, OmegaConf.create({"init_from": "start", "interpolate_positions": True}), ordered)
    assert torch.equal(model.coordinates, large)
    assert torch.equal(model.token_embedding.weight, start.model.token_embedding.weight)
