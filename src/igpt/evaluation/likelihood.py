"""Likelihood of a split: the number every pre-training run is judged by."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from igpt.data.datamodule import ImageDataModule
from igpt.evaluation.standard_error import standard_error
from igpt.pretrained import Pretrained


@dataclass(frozen=True)
class Likelihood:
    """Mean over images of the nats per predicted token, and the standard error of that mean, by groups of images."""

    nats_per_token: float
    standard_error: float
    n_images: int

    @property
    def bits_per_token(self) -> float:
        return self.nats_per_token / math.log(2)


def split_likelihood(pretrained: Pretrained, data: ImageDataModule, split: str) -> Likelihood:
    """Likelihood of all images of a split; `data` must use the model's tokenizer.

    For a masked model: of the masked tokens given the others, under one fixed mask an image, so that evaluating twice
    gives the same number.
    """
    batches = data.token_batches(split, doing="Evaluating")
    nats = torch.cat([pretrained.nats(batch).double().cpu() for batch in batches])
    error = standard_error(nats.numpy(), data.splits[split].groups)
    return Likelihood(nats.mean().item(), float(error), len(nats))
