"""From a configuration to Lightning's trainer, with its callbacks and loggers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from inspect import isclass, signature
from typing import TYPE_CHECKING, Any, TypeVar

from hydra.utils import get_object, instantiate
from omegaconf import DictConfig

from igpt.errors import IgptError, in_one_line
from igpt.files import printable
from igpt.run_directory import RunDirectory
from igpt.stored_run import StoredRun

if TYPE_CHECKING:
    import pytorch_lightning as pl

    from igpt.checkpoint import Checkpoint, Description
    from igpt.data.datamodule import ImageDataModule
    from igpt.evaluation.evaluator import Evaluator

T = TypeVar("T")

log = logging.getLogger(__name__)


def build_trainer(
    config: DictConfig,
    run: RunDirectory,
    data: ImageDataModule,
    processes: int,
    description: Description,
    resumed: Checkpoint | None,
) -> pl.Trainer:
    """Lightning's trainer for so many processes, with the callbacks that every run has and those of the configuration.
    Its checkpoints have the `description` of the model.
    """
    import torch
    from pytorch_lightning.strategies import ModelParallelStrategy

    from igpt.training.checkpoint_io import AtomicCheckpointIO
    from igpt.training.loggers.metrics_csv import MetricsCSV

    begin = resumed.step if resumed else 0
    accumulate = data.accumulation(processes)
    validate_every = min(config.trainer.val_check_interval, config.trainer.max_steps)
    trainer: pl.Trainer = instantiate(
        config.trainer,
        callbacks=build_callbacks(config, run, data),
        logger=[MetricsCSV(run.metrics, begin), *build_loggers(config, run, training_job(config), begin)],
        plugins=[AtomicCheckpointIO(description, resumed), *slurm_plugins()],
        default_root_dir=str(run.path),
        accumulate_grad_batches=accumulate,
        val_check_interval=validate_every * accumulate,  # Lightning counts micro-batches
        _convert_="all",
    )
    if trainer.strategy.root_device.type == "cuda":
        torch.set_float32_matmul_precision(config.matmul_precision)
    if resumed is not None and isinstance(trainer.strategy, ModelParallelStrategy):
        resumed.take()  # this strategy maps the file itself, to load the shards that a process keeps
    return trainer


def build_callbacks(config: DictConfig, run: RunDirectory, data: ImageDataModule) -> list[pl.Callback]:
    """The callbacks that every run has, and those of the configuration."""
    from pytorch_lightning.callbacks import Callback, Timer

    from igpt.training.callbacks.keep_last import KeepLast
    from igpt.training.callbacks.log_lineage import LogLineage
    from igpt.training.callbacks.seed_dropout import SeedDropout
    from igpt.training.callbacks.step_counters import StepCounters
    from igpt.training.callbacks.stop_on_nan import StopOnNaN
    from igpt.training.callbacks.throughput import Throughput
    from igpt.training.callbacks.training_progress import TrainingProgress
    from igpt.training.callbacks.validate_last_step import ValidateLastStep

    chosen = instantiate_all(config, "callbacks", Callback)
    return [
        StopOnNaN(run.last),  # before the callbacks that save
        StepCounters(),
        ValidateLastStep(),
        KeepLast(run.last, config.save_every),
        Throughput(data.batch_size),  # after a save, which is not part of a step
        TrainingProgress(config.monitor),
        Timer(),
        *([LogLineage(run, data, config.init_from)] if config.get("logger") else []),
        SeedDropout(config.seed),  # a part of the user's may have dropout, too
        *(without_best_checkpoint(chosen) if data.trains_on_validation else chosen),
    ]


def build_loggers(config: DictConfig, run: RunDirectory, job_type: str, first_step: int | None = None) -> list[Any]:
    """The loggers of the configuration. One that takes the argument `first_step` is given it; W&B's is given its job
    type and tags, unless the configuration has some.
    """
    from pytorch_lightning.loggers import Logger

    from igpt.training.loggers.wandb_tracker import WandbTracker

    if config.get("logger") and printable(run.path) != str(run.path):  # W&B and TensorBoard need the path in UTF-8
        log.warning("%s is not UTF-8, so no tracker can write there; metrics.csv has what it would show.", run.path)
        return []
    choices = StoredRun(run).choices
    tags = [choices[group] for group in ("data", "model", "objective") if group in choices]

    def arguments(logger: DictConfig) -> dict[str, Any]:
        made = get_object(logger._target_)
        known = {"first_step": first_step} if "first_step" in signature(made).parameters else {}
        of_wandb = {"job_type": job_type, "tags": tags} if isclass(made) and issubclass(made, WandbTracker) else {}
        return known | {name: value for name, value in of_wandb.items() if logger.get(name) is None}

    return instantiate_all(config, "logger", Logger, arguments)


def training_job(config: DictConfig) -> str:
    """W&B's job type of a training run."""
    return "train" if config.init_from is None else "finetune"


def build_evaluators(config: DictConfig) -> list[Evaluator]:
    """The evaluators of the configuration."""
    from igpt.evaluation.evaluator import Evaluator

    return instantiate_all(config, "evaluators", Evaluator)  # type: ignore[type-abstract]


def n_processes(config: DictConfig) -> int:
    """Over how many processes, each with a device, this configuration trains; IgptError if this machine lacks them."""
    import pytorch_lightning as pl
    from lightning_fabric.utilities.exceptions import MisconfigurationException

    names = ("accelerator", "devices", "num_nodes", "strategy", "precision")
    machine = {name: config.trainer[name] for name in names if name in config.trainer}
    without = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    bare: dict[str, Any] = dict.fromkeys(without, False)
    try:
        return pl.Trainer(**instantiate(machine, _convert_="all"), **bare).world_size
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        asked_for = ", ".join(f"trainer.{name}={value}" for name, value in machine.items() if name != "strategy")
        raise IgptError(f"{asked_for} cannot be used here: {in_one_line(error)}") from None


def instantiate_all(
    config: DictConfig, group: str, base: type[T], arguments: Callable[[DictConfig], dict[str, Any]] = lambda part: {}
) -> list[T]:
    """The objects that a group of named parts makes, with further `arguments` for each; null, for one part or all of
    them, is none. :class:`IgptError` for an object that is not of the class `base`.
    """
    named = {name: part for name, part in (config.get(group) or {}).items() if part is not None}
    built = {name: instantiate(part, **arguments(part), _convert_="all") for name, part in named.items()}
    for name, part in built.items():
        if not isinstance(part, base):
            raise IgptError(
                f"{group}.{name}._target_ is {named[name]['_target_']}, which makes no {base.__module__}."
                f"{base.__name__}; derive your class from that one."
            )
    return list(built.values())


def without_best_checkpoint(callbacks: list[Any]) -> list[Any]:
    """The callbacks of a run that trains on its validation images, which therefore must not choose a checkpoint."""
    from pytorch_lightning.callbacks import Checkpoint

    log.info("The validation images are trained on (data.source.full_train=true): the last checkpoint counts")
    return [c for c in callbacks if not (isinstance(c, Checkpoint) and getattr(c, "monitor", None) is not None)]


def slurm_plugins() -> list[Any]:
    """Under SLURM, keep Lightning from requeueing jobs: it saves inside of the signal, and processes that are at
    different points then wait for each other forever.
    """
    from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    if not SLURMEnvironment.detect() or TorchElasticEnvironment.detect():
        return []
    return [SLURMEnvironment(auto_requeue=False)]
