"""Callbacks for tests: two write down what they see, one sends a signal, one fails."""

import json
import signal
from pathlib import Path

import pytorch_lightning as pl


class RecordBatches(pl.Callback):
    """One JSON line per micro-batch into `folder`: step, indices, epochs, tokens per image, masks of a masked task."""

    def __init__(self, folder):
        self.folder = Path(folder)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        masking = getattr(pl_module.task, "masking", None)
        masks = [] if masking is None else masking.apply(batch, pl_module.model.config.vocab_size).masked.int().tolist()
        seen = {"step": trainer.global_step, "indices": batch.indices.tolist(), "epochs": batch.epochs.tolist()}
        seen["tokens"] = batch.tokens.shape[1]
        self.folder.mkdir(exist_ok=True)
        with open(self.folder / f"{trainer.global_rank}.jsonl", "a") as file:
            file.write(json.dumps({**seen, "masks": masks}) + "\n")


class RecordModes(pl.Callback):
    """One line into `file` per training step and per end of a validation: whether the model is in training mode."""

    def __init__(self, file):
        self.file = Path(file)

    def _record(self, event, pl_module):
        with open(self.file, "a") as file:
            file.write(f"{event} {pl_module.model.training}\n")

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self._record("step", pl_module)

    def on_validation_end(self, trainer, pl_module):
        self._record("validation", pl_module)


class SendSignal(pl.Callback):
    """Sends this process a signal after the batch, or in the validation, of a step."""

    def __init__(self, number, step, in_validation=False):
        self.number, self.step, self.in_validation = number, step, in_validation

    def on_train_batch_end(self, trainer, *_):
        if not self.in_validation and trainer.global_step == self.step:
            signal.raise_signal(self.number)

    def on_validation_batch_start(self, trainer, *_):
        if self.in_validation and trainer.global_step == self.step:
            signal.raise_signal(self.number)


class FailAt(pl.Callback):
    """Fails after the batch of a step, before its row is written."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            raise MemoryError
