"""Tokenizers in every order: round trips, completions, masks and likelihoods."""

import functools

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import random_weights
from igpt.batch import TokenBatch
from igpt.errors import IgptError
from igpt.model.config import TransformerConfig
from igpt.model.transformer import Transformer
from igpt.objectives.tasks import Autoregressive, Masked
from igpt.pretrained import Pretrained, check_palette
from igpt.run_directory import RunDirectory
from igpt.tokenizers import RGB, Gray, Ordered, Palette, palette_of, tokenizer_from_state, tokenizer_state, with_order
from igpt.tokenizers.orders import ORDERS, order

NAMES = [*ORDERS, "random"]


@functools.cache
def plain(kind):
    colors = np.random.default_rng(0).permutation(256)[:48].reshape(16, 3)  # all different
    return {"palette": lambda: Palette(colors), "rgb": RGB, "gray": Gray}[kind]()


KINDS = ["palette", "rgb", "gray"]


def model_for(tokenizer, side, causal=True):
    shape = {"vocab_size": tokenizer.vocab_size, "n_positions": tokenizer.n_tokens(side)}
    return random_weights(TransformerConfig(n_layer=1, n_head=2, n_embd=16, causal=causal, **shape))


def random_images(n, side):
    return np.random.default_rng(1).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(KINDS), st.sampled_from(NAMES), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_round_trips(kind, name, side, seed):
    tokenizer = with_order(plain(kind), name, seed)
    tokens = torch.from_numpy(
        np.random.default_rng(seed).integers(0, tokenizer.vocab_size, (2, tokenizer.n_tokens(side)))
    )
    images = tokenizer.decode(tokens)
    assert images.shape == (2, side, side, 3)
    assert images.dtype == torch.uint8
    assert torch.equal(tokenizer.encode(images), tokens)
    assert torch.equal(tokenizer.encode(images[:0]), tokens[:0])  # the share of a process may be empty
    if tokenizer.lossless:
        originals = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (2, side, side, 3), dtype=np.uint8))
        assert torch.equal(tokenizer.decode(tokenizer.encode(originals)), originals)


@pytest.mark.parametrize("name", NAMES)
def test_tokens_stand_in_the_order_with_those_of_a_pixel_together(name):
    images = random_images(2, 5)
    tokens = with_order(RGB(), name, 7).encode(torch.from_numpy(images)).reshape(2, 25, 3)
    for position, pixel in enumerate(order(name, 5, 7).tolist()):
        np.testing.assert_array_equal(tokens[:, position], images[:, pixel // 5, pixel % 5])


@pytest.mark.parametrize("kind", KINDS)
def test_checkpoints_carry_the_order(kind, tmp_path):
    tokenizer = Ordered(plain(kind), "random", 5)
    torch.save(tokenizer_state(tokenizer), tmp_path / "state.pt")
    other = tokenizer_from_state(torch.load(tmp_path / "state.pt", weights_only=True))
    images = torch.from_numpy(random_images(1, 6))
    assert torch.equal(other.encode(images), tokenizer.encode(images))
    assert other.fingerprint == tokenizer.fingerprint


def test_fingerprints_tell_orders_and_inner_tokenizers_apart():
    different = [with_order(plain(kind), name, seed) for kind in KINDS for name in NAMES for seed in (0, 1)]
    assert len({tokenizer.fingerprint for tokenizer in different}) == len(KINDS) * (len(NAMES) + 1)  # random has seeds


def test_raster_order_is_the_tokenizer_itself():
    assert with_order(plain("palette"), "raster") is plain("palette")


def test_the_palette_is_found_in_any_order(tmp_path):
    palette = plain("palette")
    assert palette_of(palette) is palette_of(with_order(palette, "spiral")) is palette
    assert palette_of(with_order(RGB(), "spiral")) is None
    run = RunDirectory(tmp_path)
    palette.save(run.palette)
    check_palette(run, with_order(palette, "spiral"))
    check_palette(run, RGB())
    with pytest.raises(IgptError, match=palette.fingerprint):
        check_palette(run, with_order(Palette(palette.colors[::-1]), "spiral"))


def test_an_unknown_order_is_refused_at_once():
    with pytest.raises(IgptError, match="order is 'zigzag'"):
        with_order(RGB(), "zigzag")


def test_an_untrained_rgb_model_has_eight_bits_per_dimension():
    model = Transformer(TransformerConfig(n_layer=1, n_head=2, n_embd=16, vocab_size=256, n_positions=48))
    pretrained = Pretrained(model, RGB(), Autoregressive())
    images = random_images(3, 4)
    zeros = torch.zeros(3, dtype=torch.long)
    nats = pretrained.nats(TokenBatch(pretrained.tokenize(images), zeros, zeros, zeros))
    bits = nats / np.log(2) * RGB.tokens_per_cell / 3
    np.testing.assert_allclose(bits, 8, rtol=1e-6)
    np.testing.assert_allclose(pretrained.log_likelihood(images), -8 * 4 * 4 * 3 * np.log(2), rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_completions_keep_what_is_given(kind, name):
    tokenizer = with_order(plain(kind), name)
    pretrained = Pretrained(model_for(tokenizer, 4), tokenizer, Autoregressive())
    images = random_images(2, 4)
    seen = tokenizer.decode(tokenizer.encode(torch.from_numpy(images))).numpy()
    mask = pretrained.given_mask(0.4)
    expected = 8 if name == "raster" else 6  # of 16 pixels: 1.6 rows are rounded to two
    assert mask.sum() == expected
    completions = pretrained.complete(images, n=3, given=0.4)
    assert completions.shape == (2, 3, 4, 4, 3)
    for i in range(3):
        np.testing.assert_array_equal(completions[:, i][:, mask], seen[:, mask])
    assert (completions[:, 0][:, ~mask] != completions[:, 1][:, ~mask]).any()  # the rest is sampled


@pytest.mark.parametrize("tokenizer", [Gray(), RGB()])
def test_a_spiral_gives_the_border_first(tokenizer):
    spiral = with_order(tokenizer, "spiral")
    pretrained = Pretrained(model_for(spiral, 4), spiral, Autoregressive())
    border = [[1, 1, 1, 1], [1, 0, 0, 1], [1, 0, 0, 1], [1, 1, 1, 1]]
    half = [[1, 1, 1, 1], [0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 1]]
    assert pretrained.given_mask(12 / 16).astype(int).tolist() == border
    assert pretrained.given_mask(7 / 16).astype(int).tolist() == half
    assert pretrained.given_mask(0).sum() == 0
    assert pretrained.given_mask(1).all()


def test_a_pixel_is_given_when_all_of_its_tokens_are():
    assert RGB().given_mask(5, 12).tolist() == [[True, False], [False, False]]
    assert RGB().given_mask(6, 12).tolist() == [[True, True], [False, False]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["raster", "spiral", "random"])
def test_filling_changes_only_masked_pixels(kind, name):
    tokenizer = with_order(plain(kind), name)
    pretrained = Pretrained(model_for(tokenizer, 4, causal=False), tokenizer, Masked())
    images = random_images(6, 4)
    seen = tokenizer.decode(tokenizer.encode(torch.from_numpy(images))).numpy()
    masks, filled = pretrained.predict_fixed_masks(images)
    np.testing.assert_array_equal(filled[~masks], seen[~masks])
    changed = (filled != seen).any(axis=-1)
    assert changed.sum() > 0.7 * masks.sum()  # an untrained model is seldom right
    assert 0 < masks.mean() < (0.7 if kind == "rgb" else 0.4)  # of three tokens, none is masked with 0.85^3


@pytest.mark.parametrize(("choice", "expected"), [("rgb", RGB), ("gray", Gray)])
def test_the_command_line_chooses_tokenizer_and_order(choice, expected):
    with initialize_config_module("igpt.conf", version_base="1.3"):
        config = compose("train", overrides=[f"tokenizer={choice}", "order=spiral"])
    assert isinstance(instantiate(config.tokenizer), expected)
    assert isinstance(with_order(instantiate(config.tokenizer), config.order), Ordered)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["raster", "spiral", "random"])
def test_tokens_at_pixels_are_those_that_describe_one_of_them(kind, name):
    tokenizer = with_order(plain(kind), name)
    total = tokenizer.n_tokens(4)
    described = tokenizer.arrange(torch.eye(total, dtype=torch.bool)).any(dim=-1)  # (T, 4, 4), of each token
    pixels = torch.rand(7, 4, 4, generator=torch.Generator().manual_seed(0)) < 0.2
    expected = [[bool((described[token] & image).any()) for token in range(total)] for image in pixels]
    assert tokenizer.tokens_at(pixels).tolist() == expected
