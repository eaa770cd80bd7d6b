"""Dropout as a pure function of the seed, the step, the micro-batch and the process."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from igpt import counter_rng

STREAM = 71  # of the random numbers for dropout


class SeedDropout(pl.Callback):
    """Seeds torch's generators before each micro-batch, so that a resumed run drops what an uninterrupted one drops,
    and a checkpoint needs no state of any generator.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        part = batch_idx % trainer.accumulate_grad_batches
        # Arrays of one number, since NumPy warns of the overflow that is meant here only for single numbers.
        counters = (np.array([each]) for each in (STREAM, trainer.global_step, part, trainer.global_rank))
        torch.manual_seed(counter_rng.integers(self.seed, *counters).item())
