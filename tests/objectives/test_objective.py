"""The means of a validation."""

import torch

from igpt.model.config import TransformerConfig
from igpt.model.transformer import Transformer
from igpt.objectives.objective import Objective
from igpt.objectives.tasks import Autoregressive


def test_one_image_whose_loss_is_not_a_number_is_seen():
    model = Transformer(TransformerConfig(1, 1, 8, vocab_size=5, n_positions=4))
    objective = Objective(model, Autoregressive(), configure=dict)
    mean = objective.validation_means["nats_per_token"]
    mean.update(torch.tensor([1.0, torch.nan, 3.0]))
    assert mean.compute().isnan()
