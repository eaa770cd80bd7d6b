import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from igpt.data.packed import PackedImages
from igpt.data.stream import EvaluationBatches, Share, TrainingStream, samples_at


@pytest.fixture
def split():
    images = np.arange(10, dtype=np.uint8)[:, None, None, None].repeat(3, axis=3)
    return PackedImages(images, np.arange(10) * 2, np.arange(10))


def first(stream, n):
    return list(itertools.islice(stream, n))


@given(n=st.integers(1, 50), seed=st.integers(0, 2**31), epoch=st.integers(0, 5))
def test_every_epoch_visits_every_sample_once(n, seed, epoch):
    index, epochs = samples_at(np.arange(epoch * n, (epoch + 1) * n), n, seed)
    assert sorted(index) == list(range(n))
    assert (epochs == epoch).all()


def test_the_order_depends_on_epoch_and_seed():
    orders = [tuple(samples_at(np.arange(e * 20, e * 20 + 20), 20, s)[0]) for e in range(3) for s in range(3)]
    assert len(set(orders)) == 9


@given(
    world_size=st.integers(1, 4), accumulate=st.integers(1, 4), micro=st.integers(1, 5), step=st.integers(0, 20),
)  # fmt: skip
def test_processes_and_micro_batches_share_the_global_batch(world_size, accumulate, micro, step):
    batch_size = world_size * accumulate * micro
    together = np.concatenate(
        [
            Share(batch_size, rank, world_size, accumulate).positions(step * accumulate + part)
            for part in range(accumulate)
            for rank in range(world_size)
        ]
    )
    np.testing.assert_array_equal(together, Share(batch_size).positions(step))


def test_batches_hold_the_samples_they_name(split):
    for batch in first(TrainingStream(split, Share(4), seed=1), 6):
        assert batch.images.shape == (4, 1, 1, 3)
        torch.testing.assert_close(batch.images[:, 0, 0, 0].long(), batch.indices)
        torch.testing.assert_close(batch.labels, batch.indices * 2)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_batches_do_not_depend_on_the_number_of_workers(split, workers):
    stream = TrainingStream(split, Share(3), seed=5)
    loader = DataLoader(stream, batch_size=None, num_workers=workers)
    for ours, theirs in zip(first(stream, 8), loader, strict=False):
        torch.testing.assert_close(ours, theirs)


def test_a_stream_can_begin_at_any_step(split):
    whole = first(TrainingStream(split, Share(3), seed=5), 9)
    torch.testing.assert_close(first(TrainingStream(split, Share(3), seed=5, start=4), 5), whole[4:])


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_sees_every_sample_once(split, world_size):
    seen = [
        int(i)
        for rank in range(world_size)
        for batch in DataLoader(EvaluationBatches(split, 4, rank, world_size), batch_size=None)
        for i in batch.indices
    ]
    assert sorted(seen) == list(range(10))


@pytest.mark.parametrize("world_size", [2, 3, 4, 6])
def test_all_processes_have_the_same_number_of_evaluation_batches(split, world_size):
    """Of 10 samples in batches of 1, 2 and 5; those that share one model gather its weights for each batch."""
    for batch_size in (1, 2, 5):
        n = -(-10 // (batch_size * world_size))
        for rank in range(world_size):
            sizes = [len(batch.labels) for batch in EvaluationBatches(split, batch_size, rank, world_size).after(0)]
            assert len(sizes) == n
            assert max(sizes) <= batch_size
            assert max(sizes) - min(sizes) <= 1
            assert min(sizes) > 0 or n * world_size > 10
