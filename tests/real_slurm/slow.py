"""A callback that makes steps slow, for a test that needs a long run."""

import time

import pytorch_lightning as pl


class Slow(pl.Callback):
    def __init__(self, seconds):
        self.seconds = seconds

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        time.sleep(self.seconds)
