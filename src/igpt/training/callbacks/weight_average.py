"""An exponential moving average of the weights (EMA), beside the weights that are trained."""

from __future__ import annotations

import copy
from typing import Any

import pytorch_lightning as pl
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torchmetrics import MeanMetric

from igpt.batch import TokenBatch
from igpt.checkpoint import AVERAGED
from igpt.objectives.objective import Objective, as_logged


class WeightAverage(pl.Callback):
    """Averages the weights over the steps: after step t, average = d average + (1 - d) weights.

    The factor d is `decay`, and in the first steps the smaller (1 + t) / (10 + t), so that the weights at the beginning
    are soon forgotten. The average is in float32, whatever the precision of training.

    Each validation measures the average, too (val_ema/*), and each checkpoint contains it. Training is bitwise the same
    as without it. A run that is resumed from a checkpoint without an average begins one.
    """

    def __init__(self, decay: float = 0.999) -> None:
        self.decay = decay
        self._saved: dict[str, Tensor] | None = None  # of the checkpoint from which the run is resumed

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._saved = checkpoint.get(AVERAGED)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint[AVERAGED] = self.average.state_dict()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Objective)
        self._model, self._head = copy.deepcopy((pl_module.model, pl_module.head))
        self.average = _together(self._model, self._head).float().requires_grad_(False).eval()
        if self._saved is not None:
            self.average.load_state_dict(self._saved)
            self._saved = None
        self._means = {
            name: MeanMetric(nan_strategy="disable").to(pl_module.device) for name in pl_module.task.measures
        }

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return  # in the middle of a step
        assert isinstance(pl_module, Objective)
        step = trainer.global_step
        average = get_ema_multi_avg_fn(min(self.decay, (1 + step) / (10 + step)))
        weights = [p.detach().float() for p in _together(pl_module.model, pl_module.head).parameters()]
        average(list(self.average.parameters()), weights, step)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: TokenBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        assert isinstance(pl_module, Objective)
        with trainer.precision_plugin.val_step_context():
            measured = pl_module.task.measure(self._model, self._head, batch)
        for name, values in measured.items():
            self._means[name].update(values)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pl_module.log_dict(as_logged("val_ema", {name: mean.compute() for name, mean in self._means.items()}))
        for mean in self._means.values():
            mean.reset()


def _together(model: nn.Module, head: nn.Module | None) -> nn.Module:
    """One module with the names of weights that an :class:`Objective` has in its state dict."""
    return nn.ModuleDict({"model": model} if head is None else {"model": model, "head": head})
