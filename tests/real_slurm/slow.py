"""A callback that slows down every step, for tests that need a long run."""

import time

import pytorch_lightning as pl


class Slow(pl.Callback):
    def __init__(self, seconds):
        self.seconds = seconds

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        time.sleep(self.seconds)
