"""A pre-training task that a user may write in a module on the path."""

from dataclasses import dataclass

from torch import nn

from igpt.objectives.tasks import Autoregressive, Losses


@dataclass(frozen=True)
class Smoothed(Autoregressive):
    """Autoregressive, with a loss that keeps all probabilities away from 0."""

    smoothing: float = 0.1

    def losses(self, model, head, batch):
        log_p = model(batch.tokens).float().log_softmax(dim=-1)  # (B, T, V), in float32 in any precision
        nats = -log_p.gather(-1, batch.tokens[..., None]).mean()
        loss = (1 - self.smoothing) * nats - self.smoothing * log_p.mean()
        return Losses(loss, {"nats_per_token": nats})


@dataclass(frozen=True)
class WithHead(Autoregressive):
    """Autoregressive, with a module beside the model."""

    def make_head(self, shape, n_classes):
        return nn.Linear(shape.n_embd, 2)
