"""Likelihood of a split: the number every pre-training run is judged by."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from igpt.data.datamodule import ImageDataModule
from igpt.objectives.losses import autoregressive_nats
from igpt.pretrained import Pretrained


@dataclass(frozen=True)
class Likelihood:
    """Mean over images of the nats per token, and the standard error of that mean."""

    nats_per_token: float
    standard_error: float
    n_images: int

    @property
    def bits_per_token(self) -> float:
        return self.nats_per_token / math.log(2)


@torch.inference_mode()
def split_likelihood(pretrained: Pretrained, data: ImageDataModule, split: str) -> Likelihood:
    """Likelihood of all images of a split under a pre-trained model; `data` must use the model's tokenizer."""
    batches = map(data.tokenize, data.evaluation_loader(split))
    nats = torch.cat([autoregressive_nats(pretrained.model, b.tokens.to(pretrained.device)).cpu() for b in batches])
    error = nats.double().std().item() / math.sqrt(len(nats)) if len(nats) > 1 else math.nan
    return Likelihood(nats.double().mean().item(), error, len(nats))
