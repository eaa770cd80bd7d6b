"""An image is a function of the seed and its number, whatever is generated with it, and in which batches."""

import numpy as np
import pytest
import torch

from conftest import random_weights
from igpt.errors import IgptError
from igpt.generation import c_decoder
from igpt.generation.autoregressive import torch_threads
from igpt.generation.noise import Noise
from igpt.generation.sample_tokens import bytes_per_sequence, split
from igpt.generation.sampling_config import SamplingConfig
from igpt.model.config import TransformerConfig
from igpt.objectives.tasks import Autoregressive, Masked
from igpt.pretrained import Pretrained
from igpt.tokenizers import Palette

SHAPE = {"n_layer": 2, "n_head": 2, "n_embd": 16, "vocab_size": 11, "n_positions": 16}
SAMPLING = {
    "autoregressive": SamplingConfig(0.9, top_p=0.95),
    "without C": SamplingConfig(0.9, top_k=9),
    "masked": SamplingConfig(0.9, passes=5),
}


@pytest.fixture(params=SAMPLING)
def kind(request, monkeypatch):
    if request.param == "without C":
        monkeypatch.setattr("igpt.generation.steps.supports", lambda *_: False)
    elif request.param == "autoregressive" and c_decoder.library() is None:
        pytest.skip("this machine has no C compiler")
    return request.param


@pytest.fixture
def pretrained(kind):
    task = Masked(0.1, max_ratio=1.0) if kind == "masked" else Autoregressive()
    model = random_weights(TransformerConfig(**SHAPE, causal=task.causal))
    return Pretrained(model, Palette(np.random.default_rng(0).random((11, 3)) * 255), task)


def images(n):
    return np.random.default_rng(1).integers(0, 256, (n, 4, 4, 3), np.uint8)


def batch_sizes(monkeypatch):
    """How many images each batch has."""
    integers, sizes = Noise.integers, []
    monkeypatch.setattr(
        Noise, "integers", lambda noise, *a: sizes.append(len(noise.prompts) * len(noise.copies)) or integers(noise, *a)
    )
    return sizes


@pytest.mark.parametrize(("batch_size", "threads"), [(1, 1), (1, 2), (3, 1), (64, 2)])
def test_fewer_images_are_the_first_of_more(pretrained, kind, batch_size, threads):
    with torch_threads(1):
        expected = pretrained.sample(8, seed=0, sampling=SAMPLING[kind])
        completed = pretrained.complete(images(3), n=5, seed=0, sampling=SAMPLING[kind])
    assert len(np.unique(expected, axis=0)) == 8
    assert len(np.unique(completed.reshape(15, -1), axis=0)) == 15
    pretrained.batch_size = batch_size
    with torch_threads(threads):
        for n in (3, 8):
            np.testing.assert_array_equal(pretrained.sample(n, seed=0, sampling=SAMPLING[kind]), expected[:n])
        for rows, n in ((3, 2), (1, 5)):
            few = pretrained.complete(images(3)[:rows], n=n, seed=0, sampling=SAMPLING[kind])
            np.testing.assert_array_equal(few, completed[:rows, :n])
    assert not np.array_equal(pretrained.sample(8, seed=1, sampling=SAMPLING[kind]), expected)


def test_memory_for_one_image_at_a_time_changes_nothing(pretrained, kind, monkeypatch):
    expected = pretrained.sample(3, sampling=SAMPLING[kind])
    completed = pretrained.complete(images(2), n=2, sampling=SAMPLING[kind])
    monkeypatch.setattr("igpt.generation.sample_tokens.MEMORY", bytes_per_sequence(pretrained.model, SAMPLING[kind]))
    sizes = batch_sizes(monkeypatch)
    np.testing.assert_array_equal(pretrained.sample(3, sampling=SAMPLING[kind]), expected)
    np.testing.assert_array_equal(pretrained.complete(images(2), n=2, sampling=SAMPLING[kind]), completed)
    assert set(sizes) == {1}


def test_what_is_given_stays_and_the_rest_differs(pretrained, kind):
    palette, given = pretrained.tokenizer, images(3)
    quantized = palette.decode(palette.encode(torch.from_numpy(given))).numpy()
    completed = pretrained.complete(given, n=2, given=0.5, sampling=SAMPLING[kind])
    np.testing.assert_array_equal(completed[:, :, :2], quantized[:, None, :2].repeat(2, axis=1))
    assert not np.array_equal(completed[:, 0], completed[:, 1])
    np.testing.assert_array_equal(pretrained.complete(given, given=1.0, sampling=SAMPLING[kind])[:, 0], quantized)


@pytest.mark.parametrize(("prompts", "copies", "at_once"), [(1, 8, 3), (4, 1, 3), (4, 2, 5), (3, 5, 2), (2, 2, 64)])
def test_batches_have_every_image_once_and_in_order(prompts, copies, at_once):
    batches = list(split(Noise(7, range(prompts), range(copies)), at_once))
    numbers = [(prompt, copy) for batch in batches for prompt in batch.prompts for copy in batch.copies]
    assert numbers == [(prompt, copy) for prompt in range(prompts) for copy in range(copies)]
    assert all(len(batch.prompts) * len(batch.copies) <= at_once and batch.seed == 7 for batch in batches)
    assert len(batches) <= -(-prompts * copies // at_once) * 2


def test_keys_and_values_are_what_a_batch_is_limited_by(tiny):
    assert bytes_per_sequence(tiny, SamplingConfig()) == tiny.new_cache(1).storage.nbytes
    assert bytes_per_sequence(tiny, SamplingConfig(cache_dtype="bfloat16")) == tiny.new_cache(1).storage.nbytes / 2


def test_settings_of_another_model_and_no_images_are_refused(pretrained, kind):
    other = SamplingConfig(compile=True) if kind == "masked" else SamplingConfig(passes=3)
    for ask in (pretrained.sample, lambda n, sampling: pretrained.complete(images(2), n, sampling=sampling)):
        with pytest.raises(IgptError, match="sampling.(compile is True|passes is 3); it applies to"):
            ask(2, sampling=other)
        with pytest.raises(IgptError, match="n is 0; ask for at least one image"):
            ask(0, sampling=SAMPLING[kind])
