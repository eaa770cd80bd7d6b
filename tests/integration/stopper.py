"""A callback that asks the command to stop after a step, as Ctrl-C would."""

import signal

import pytorch_lightning as pl


class StopAt(pl.Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.step:
            signal.raise_signal(signal.SIGTERM)
