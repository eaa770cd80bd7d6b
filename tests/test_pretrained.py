"""What a trained model does with batches that are too large for the memory of its device."""

import pytest
import torch

from igpt.batch import TokenBatch
from igpt.objectives.tasks import Autoregressive
from igpt.pretrained import Pretrained
from igpt.tokenizers import Palette


@pytest.fixture
def pretrained(tiny):
    return Pretrained(tiny, Palette(torch.rand(11, 3).numpy() * 255), Autoregressive())


def batch_of(images):
    numbers = torch.arange(images)
    return TokenBatch(torch.randint(11, (images, 16)), labels=numbers, indices=numbers, epochs=numbers)


def limit_memory(monkeypatch, model, most):
    """As if no more than `most` images had room; the sizes of the batches that had."""
    embed, fitted = model.embed, []

    def limited(tokens, mask=None):
        if len(tokens) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        fitted.append(len(tokens))
        return embed(tokens, mask)

    monkeypatch.setattr(model, "embed", limited)
    return fitted


@pytest.mark.parametrize("ask", ["nats", "batch_features"])
def test_a_batch_that_does_not_fit_is_done_in_halves(pretrained, monkeypatch, ask):
    batch = batch_of(7)
    expected = getattr(pretrained, ask)(batch)
    fitted = limit_memory(monkeypatch, pretrained.model, 2)
    torch.testing.assert_close(getattr(pretrained, ask)(batch), expected)
    assert fitted == [1, 2, 2, 2]


def test_an_image_that_does_not_fit_alone_is_an_error(pretrained, monkeypatch):
    limit_memory(monkeypatch, pretrained.model, 0)
    with pytest.raises(torch.OutOfMemoryError):
        pretrained.nats(batch_of(3))
