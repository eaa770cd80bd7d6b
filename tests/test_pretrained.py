"""What a trained model does with batches that are too large for the memory of its device."""

import pytest
import torch
from torch import nn

from conftest import random_weights
from igpt.batch import TokenBatch
from igpt.model.config import TransformerConfig
from igpt.objectives.tasks import Autoregressive, Masked
from igpt.pretrained import Pretrained
from igpt.tokenizers import Palette


@pytest.fixture(params=[Autoregressive(), Masked()], ids=["ar", "mlm"])
def pretrained(request):
    shape = {"n_layer": 2, "n_head": 2, "n_embd": 16, "vocab_size": 11, "n_positions": 16}
    model = random_weights(TransformerConfig(**shape, causal=request.param.causal))
    trained = Pretrained(model, Palette(torch.rand(11, 3).numpy() * 255), request.param)
    trained.class_head, trained.votes = nn.Linear(16, 3), 3
    return trained


def batch_of(images):
    numbers = torch.arange(images)
    return TokenBatch(torch.randint(11, (images, 16)), labels=numbers, indices=numbers, epochs=numbers)


def limit_memory(monkeypatch, model, most):
    """As if no more than `most` images had room; the sizes of the batches that had."""
    embed, fitted = model.embed, []

    def limited(tokens, *options):
        if len(tokens) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        fitted.append(len(tokens))
        return embed(tokens, *options)

    monkeypatch.setattr(model, "embed", limited)
    return fitted


@pytest.mark.parametrize(("ask", "passes"), [("nats", 1), ("batch_features", 2), ("predict", 3)])
def test_a_batch_that_does_not_fit_is_done_in_halves(pretrained, monkeypatch, ask, passes):
    options = {"masks": 2} if ask == "batch_features" else {}
    batch = batch_of(7)
    expected = getattr(pretrained, ask)(batch, **options)
    fitted = limit_memory(monkeypatch, pretrained.model, 2)
    torch.testing.assert_close(getattr(pretrained, ask)(batch, **options), expected)
    each = 1 if pretrained.task.causal else passes
    assert fitted == [images for images in (1, 2, 2, 2) for _ in range(each)]


def test_an_image_that_does_not_fit_alone_is_an_error(pretrained, monkeypatch):
    limit_memory(monkeypatch, pretrained.model, 0)
    with pytest.raises(torch.OutOfMemoryError):
        pretrained.nats(batch_of(3))
