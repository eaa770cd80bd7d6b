"""Parts that a user may write in a module on the path: a tokenizer with a coarser grid, and a pre-training task."""

from dataclasses import dataclass

import torch

from igpt.objectives.tasks import Autoregressive, Losses
from igpt.tokenizers import Tokenizer


class Coarse(Tokenizer):
    """A token is the mean gray level of 2x2 pixels."""

    cell = 2

    def __init__(self, levels=16):
        self.levels = levels

    @property
    def vocab_size(self):
        return self.levels

    @property
    def fingerprint(self):
        return f"coarse-{self.levels}"

    def encode(self, images):
        cells = images.unflatten(1, (-1, 2)).unflatten(3, (-1, 2))  # (N, H / 2, 2, W / 2, 2, 3)
        return (cells.long().sum(dim=(2, 4, 5)) * self.levels // (12 * 256)).flatten(1)

    def decode(self, tokens):
        gray = (self.arrange(tokens) * 255 // (self.levels - 1)).to(torch.uint8)
        return gray.expand(-1, -1, -1, 3).contiguous()

    def state(self):
        return {"levels": self.levels}


@dataclass(frozen=True)
class Smoothed(Autoregressive):
    """Autoregressive, with a loss that keeps all probabilities away from 0."""

    smoothing: float = 0.1

    def losses(self, model, head, batch):
        log_p = model(batch.tokens).log_softmax(dim=-1)  # (B, T, V)
        nats = -log_p.gather(-1, batch.tokens[..., None]).mean()
        loss = (1 - self.smoothing) * nats - self.smoothing * log_p.mean()
        return Losses(loss, {"nats_per_token": nats})
