"""A callback for tests, named in their configurations."""

import math

import pytorch_lightning as pl


class BadLoss(pl.Callback):
    """In one process, the loss of a step is not a number."""

    def __init__(self, step: int, rank: int) -> None:
        self.step, self.rank = step, rank

    def on_train_start(self, trainer, pl_module):
        training_step = pl_module.training_step
        if trainer.global_rank == self.rank:
            pl_module.training_step = lambda *batch: (
                training_step(*batch) * (math.nan if trainer.global_step + 1 == self.step else 1)
            )
