"""Workers read the same batches as the main process, which continues if they die."""

import os
import signal

import pytest
import torch

from igpt.data.loader import BatchLoader
from igpt.data.packed import PackedImages
from igpt.data.stream import EvaluationBatches, Share, TrainingStream


@pytest.fixture
def split():
    images = torch.arange(40 * 12, dtype=torch.int64).remainder(251).to(torch.uint8).reshape(40, 2, 2, 3).numpy()
    return PackedImages(images, torch.arange(40).numpy(), torch.arange(40).numpy())


def kill_a_worker(loader):
    os.kill(loader._iterator._workers[0].pid, signal.SIGKILL)


def test_training_continues_after_a_worker_died(split, caplog):
    stream = TrainingStream(split, Share(8, accumulate=2), seed=3, start=5)
    loader = BatchLoader(stream, num_workers=2, pin_memory=False)
    handler = signal.getsignal(signal.SIGCHLD)
    batches = []
    for n, batch in enumerate(loader):
        if n == 3:
            assert signal.getsignal(signal.SIGCHLD) == handler  # torch's handler would raise errors at any place
            kill_a_worker(loader)
        batches.append(batch)
        if n == 20:
            break
    assert loader.lost == "was killed by SIGKILL"
    assert "A data worker was killed by SIGKILL; the main process reads the remaining batches." in caplog.text
    for found, expected in zip(batches, stream.after(0), strict=False):
        assert torch.equal(found.images, expected.images)
        assert torch.equal(found.indices, expected.indices)
        assert torch.equal(found.epochs, expected.epochs)


def test_an_evaluation_is_complete_although_a_worker_died(split):
    loader = BatchLoader(EvaluationBatches(split, batch_size=3), num_workers=2, pin_memory=False)
    assert [batch.indices.tolist() for batch in loader][-1] == [38, 39]
    assert loader.lost is None
    kill_a_worker(loader)
    assert torch.cat([batch.indices for batch in loader]).tolist() == list(range(40))
    assert loader.lost == "was killed by SIGKILL"


class Broken(EvaluationBatches):
    def __getitem__(self, batch):
        if batch == 2:
            raise ValueError("the third batch is broken")
        return super().__getitem__(batch)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_the_data_is_not_the_death_of_a_worker(split, workers):
    loader = BatchLoader(Broken(split, batch_size=3), workers, pin_memory=False)
    with pytest.raises(ValueError, match="the third batch is broken"):
        list(loader)
    assert loader.lost is None
