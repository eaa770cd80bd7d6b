"""The speed of training, the utilization of the devices, and peak memory."""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from dataclasses import replace
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_only

from igpt.errors import IgptError
from igpt.metric_names import FLOPS, IMAGES
from igpt.model.config import TransformerConfig
from igpt.objectives.objective import Objective
from igpt.planning.compute import measure
from igpt.planning.devices import DEVICES, PRECISIONS, TERA
from igpt.training.callbacks.speed_hints import Speed, StepTimes, hints

log = logging.getLogger(__name__)

# Dense FLOP/s of float32 products in TF32, from the same data sheets as the rest of DEVICES.
TF32 = {"h100": 494.7 * TERA, "h200": 494.7 * TERA, "a100": 156 * TERA, "rtx4090": 82.6 * TERA}


class Throughput(pl.Callback):
    """Every `log_every_n_steps` steps, logs under speed/ the means since the last time, over all processes:
    images_per_second, tokens_per_second, flops_per_second, and mfu (model FLOPs utilization, Chowdhery et al. 2022).

    The FLOPs are the model's, without those that activation checkpointing recomputes. The time is without the first
    step, and without validations and what is done at them. peak_memory_gb is that of this process: of the tensors on a
    GPU, of all memory on a CPU. `batch_size` is the number of images per step, over all processes.

    At these steps and at each validation, it logs what the model was trained on since the run began: data/images, and
    data/flops if they can be counted.

    It also logs hints: at the start, and on a CPU whose cores other programs use.
    """

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self._flops = 0  # of all steps of the run, also of those before it was resumed
        self._begin: tuple[float, int] | None = None  # time and step of the start of the current measurement
        self._pause: float | None = None  # time of the start of the validation
        self._step_times: StepTimes | None = None
        self._batch: tuple[float, float] | None = None  # time and CPU time of the start of the current micro-batch

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Objective)
        device, arithmetic, config = pl_module.device, arithmetic_of(trainer), pl_module.model.config
        self._begin = self._pause = None
        self._count(config)
        peak = peak_flops(device, arithmetic)
        self._peak = None if peak is None else peak * trainer.world_size
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        device_batch = self.batch_size // (trainer.world_size * trainer.accumulate_grad_batches)
        speed = Speed(
            capability=torch.cuda.get_device_capability(device) if device.type == "cuda" else None,
            arithmetic=arithmetic,
            matmul_precision=torch.get_float32_matmul_precision(),
            head_size=config.head_size,
            device_tokens=device_batch * config.n_positions,
            steps=trainer.max_steps,
            compiled=bool(pl_module.hparams.get("compile")),
        )
        threads, policy = torch.get_num_threads(), os.environ.get("OMP_WAIT_POLICY", "")
        busy_waiting = threads > 1 and policy.lower() != "passive"
        self._step_times = StepTimes(threads, busy_waiting) if device.type == "cpu" else None
        for hint in hints(speed) if trainer.is_global_zero else ():
            log.info(hint)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._step_times is not None and self._batch is not None:
            times = (now - begin for now, begin in zip(now_and_cpu(), self._batch, strict=True))
            if (hint := self._step_times.add(*times)) and trainer.is_global_zero:
                log.warning(hint)
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return  # in the middle of a step
        assert isinstance(pl_module, Objective)
        if (n_tokens := batch.tokens.shape[1]) != self._image_tokens:  # a stage of another resolution
            self._count(replace(pl_module.model.config, n_positions=n_tokens))
            self._begin = None
        now, step = time.perf_counter(), trainer.global_step
        self._flops += self.batch_size * (self._image_flops or 0)
        is_logged = step % trainer.log_every_n_steps == 0  # type: ignore[attr-defined]
        if is_logged:
            pl_module.log_dict(self.trained_on(step))
        if self._begin is None:
            self._begin = now, step
        elif is_logged:
            images_per_second = (step - self._begin[1]) * self.batch_size / (now - self._begin[0])
            self._begin = now, step
            values = {**self.rates(images_per_second), "peak_memory_gb": peak_memory(pl_module.device) / 1e9}
            pl_module.log_dict({f"speed/{name}": value for name, value in values.items()})

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pl_module.log_dict(self.trained_on(trainer.global_step))

    @property
    def state_key(self) -> str:
        """The key in checkpoints; Lightning's has the name of the class in it."""
        return "throughput"

    def state_dict(self) -> dict[str, Any]:
        return {"flops": self._flops}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._flops = state_dict["flops"]

    def trained_on(self, steps: int) -> dict[str, int]:
        """Images and FLOPs of the first `steps` steps, by which W&B's charts can order runs of different batches."""
        flops = {} if self._image_flops is None else {FLOPS: self._flops}
        return {IMAGES: steps * self.batch_size, **flops}

    def _count(self, config: TransformerConfig) -> None:
        """Count the tokens and FLOPs of an image."""
        self._image_tokens, self._image_flops = config.n_positions, flops_per_image(config)

    def rates(self, images_per_second: float) -> dict[str, float]:
        """The rates that follow from the images per second: FLOPs if they could be counted, and mfu if the peak of the
        device is known, too.
        """
        rates = {
            "images_per_second": images_per_second,
            "tokens_per_second": images_per_second * self._image_tokens,
        }
        if self._image_flops is not None:
            rates["flops_per_second"] = images_per_second * self._image_flops
            if self._peak is not None:
                rates["mfu"] = rates["flops_per_second"] / self._peak
        return rates

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._pause = time.perf_counter()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._pause is not None and self._begin is not None:
            self._begin = self._begin[0] + time.perf_counter() - self._pause, self._begin[1]
        self._pause = None
        self._batch = now_and_cpu()


def flops_per_image(config: TransformerConfig) -> int | None:
    """FLOPs of one image, forward and backward; None, and a line in the log, if they cannot be counted."""
    try:
        return measure(config).flops
    except IgptError as error:
        rank_zero_only(log.info)("No FLOPs are logged. %s", error)
        return None


def now_and_cpu() -> tuple[float, float]:
    """The time and the CPU time of this process, in seconds since an unspecified moment."""
    return time.perf_counter(), time.process_time()


def arithmetic_of(trainer: pl.Trainer) -> str:
    """The number format of matrix products; for a precision that igpt does not know, Lightning's name of it."""
    precision = PRECISIONS.get(str(trainer.precision))
    return precision.arithmetic if precision else str(trainer.precision)


def peak_flops(device: torch.device, arithmetic: str) -> float | None:
    """The peak FLOP/s of a device in a number format: of a GPU from its data sheet, if known; of a CPU as measured."""
    if device.type == "cpu":
        return measured_flops(torch.bfloat16 if arithmetic == "bf16" else torch.float32)
    key = find_card(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    if key is None:
        return None
    tf32 = arithmetic == "fp32" and torch.get_float32_matmul_precision() != "highest"
    return (TF32 if tf32 else {}).get(key) or DEVICES[key].flops.get(arithmetic)


def find_card(name: str) -> str | None:
    """The key in DEVICES of a GPU with this name in CUDA: "NVIDIA A100-SXM4-80GB" is a100."""
    words = re.split(r"[^a-z0-9]+", name.lower().replace("rtx ", "rtx"))
    return next((key for key in DEVICES if key in words), None)


def measured_flops(dtype: torch.dtype, size: int = 1024) -> float:
    """FLOP/s of the fastest of six products of square matrices on the CPU; uses no random numbers."""
    matrix, seconds = torch.ones(size, size, dtype=dtype), []
    for _ in range(6):
        start = time.perf_counter()
        torch.mm(matrix, matrix)
        seconds.append(time.perf_counter() - start)
    return float(2 * size**3 / min(seconds))


def peak_memory(device: torch.device) -> float:
    """Peak bytes: of the tensors on a GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource  # not available on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
