"""From a configuration to the parts of a training run: data, objective, trainer."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from hydra.utils import get_object, instantiate
from omegaconf import DictConfig

from igpt.cluster.ranks import is_main_process
from igpt.configuration.app import plain
from igpt.errors import IgptError
from igpt.files import all_printable, printable
from igpt.run_directory import RunDirectory

if TYPE_CHECKING:
    import pytorch_lightning as pl

    from igpt.checkpoint import Checkpoint, Description
    from igpt.data.datamodule import ImageDataModule
    from igpt.model.config import TransformerConfig
    from igpt.objectives.objective import Objective
    from igpt.objectives.tasks import Task
    from igpt.pretrained import Pretrained

log = logging.getLogger(__name__)


def starting_point(config: DictConfig) -> Pretrained | None:
    """The trained model that `init_from` names."""
    from igpt.commands.tokenizer_of_run import check_tokenizer
    from igpt.pretrained import load

    if config.init_from is None:
        return None
    if config.tokenizer.get("path") is not None:
        raise IgptError("init_from and tokenizer.path both name a palette; leave tokenizer.path=null.")
    start = load(config.init_from, device="cpu")
    check_tokenizer(config, start.tokenizer)
    return start


def build_data(
    config: DictConfig, run: RunDirectory, resumed: Checkpoint | None, start: Pretrained | None
) -> ImageDataModule:
    """The data, packed, with the run's tokenizer.

    A new run keeps a record of its data; a resumed one refuses data that have changed.
    """
    from igpt.commands.tokenizer_of_run import tokenizer_of_run
    from igpt.configuration.class_names import number_classes, require_images_of
    from igpt.data.provenance import DataRecord, check_unchanged
    from igpt.pretrained import check_palette
    from igpt.tokenizers import palette_of

    data: ImageDataModule = instantiate(config.data, seed=config.seed, _convert_="all")
    if run.trained:
        check_unchanged(data.source, run.data)
    number_classes(config, data)
    data.accumulation(n_processes(config))  # raises IgptError, before data are packed
    data.prepare_data()
    data.setup()
    data.tokenizer = tokenizer_of_run(config, data, resumed, start)
    if resumed is not None:
        check_palette(run, data.tokenizer)
    data.check_batch_size()
    require_images_of(data, config.showcase_class, "showcase_class")
    if is_main_process() and not run.trained:
        DataRecord.of(data.source).save(run.data)
    palette = palette_of(data.tokenizer)
    if palette is not None and is_main_process() and not (run.trained and run.palette.exists()):
        palette.save(run.palette)
    log.info("%s", data.describe())
    return data


def build_task(config: DictConfig, resumed: Checkpoint | None, start: Pretrained | None) -> Task:
    """What the model is trained for: what it was trained for in a resumed run, or else the configuration's task."""
    from igpt.objectives.tasks import Task, task_from_state

    if resumed is not None:
        return task_from_state(resumed.description.task)
    task = instantiate(config.objective, _convert_="all")
    if not isinstance(task, Task):
        raise IgptError(
            f"objective._target_ is {config.objective['_target_']}, which makes no igpt.objectives.tasks.Task; derive "
            "your task from that class."
        )
    return task if start is None else task.starting_from(start.task)


def build_objective(
    config: DictConfig, data: ImageDataModule, resumed: Checkpoint | None, start: Pretrained | None
) -> Objective:
    """The objective, with a model that fits the tokenizer: untrained, or with the weights to start from."""
    from igpt.model.transformer import Transformer
    from igpt.objectives.objective import Objective

    task = build_task(config, resumed, start)
    n_classes = number_of_classes(data) if task.needs_classes else 0
    model = Transformer(model_config_for(plain(config.model), data, task.causal))
    model.checkpointing = config.activation_checkpointing
    if config.compile:
        model.compile()
    if start is not None:
        start_from(model, start, str(config.init_from))
    configure = instantiate(config.optim, _convert_="all").configure
    objective = Objective(model, task, configure, n_classes)
    objective.save_hyperparameters({**all_printable(plain(config)), "model": asdict(model.config)})  # for trackers
    return objective


def describe(config: DictConfig, data: ImageDataModule, objective: Objective) -> Description:
    """What the checkpoints of a run say about its model."""
    from igpt.checkpoint import Description
    from igpt.objectives.tasks import task_state
    from igpt.tokenizers import tokenizer_state

    return Description(
        model=asdict(objective.model.config),
        task=task_state(objective.task),
        tokenizer=tokenizer_state(data.tokenizer),
        classes=list(data.source.classes),
        data=data.source.key(),
        configuration=all_printable(plain(config)),
    )


def number_of_classes(data: ImageDataModule) -> int:
    """How many classes there are to learn; :class:`IgptError` unless every training image and some validation image has
    one.
    """
    from igpt.evaluation.labels import check_labeled

    train = data.splits["train"].labels
    if unlabeled := int((train < 0).sum()):
        raise IgptError(
            f"{unlabeled} of {len(train)} training images of '{data.source.name}' have no label, so no classifier can "
            "be trained on them; leave them out of the data, or pre-train on all with objective=ar or mlm."
        )
    check_labeled(data, "validation")
    return len(data.source.classes)


def model_config_for(values: dict[str, Any], data: ImageDataModule, causal: bool) -> TransformerConfig:
    """The model's configuration; what is left open (null) follows from the data."""
    from igpt.model.config import TransformerConfig

    n_positions = values["n_positions"] or data.n_tokens
    if n_positions != data.n_tokens:
        side = data.source.resolution
        raise IgptError(
            f"model.n_positions is {n_positions}, but images of {side}x{side} have {data.n_tokens} tokens; leave "
            "model.n_positions=null, or change data.source.resolution."
        )
    known = {"n_positions": n_positions, "vocab_size": data.tokenizer.vocab_size, "causal": causal}
    return TransformerConfig(**{**values, **known})


def start_from(model: Any, start: Pretrained, name: str) -> None:
    """Copy the weights of a trained model into one of the same shape."""
    wanted, found = asdict(model.config), asdict(start.model.config)
    differences = [f"{key}={found[key]} instead of {wanted[key]}" for key in wanted if wanted[key] != found[key]]
    if differences:
        raise IgptError(
            f"The model in init_from={name} has {', '.join(differences)}; choose the same model, objective and "
            "data.source.resolution."
        )
    model.load_state_dict(start.model.state_dict())


def build_trainer(
    config: DictConfig, run: RunDirectory, data: ImageDataModule, objective: Objective, resumed: Checkpoint | None
) -> pl.Trainer:
    """Lightning's trainer, with the callbacks that every run has and those of the configuration."""
    import torch

    from igpt.training.checkpoint_io import AtomicCheckpointIO
    from igpt.training.loggers.metrics_csv import MetricsCSV

    begin = resumed.step if resumed else 0
    accumulate = data.accumulation(n_processes(config))
    validate_every = min(config.trainer.val_check_interval, config.trainer.max_steps)
    trainer: pl.Trainer = instantiate(
        config.trainer,
        callbacks=build_callbacks(config, run, data),
        logger=[MetricsCSV(run.metrics, begin), *build_loggers(config, run, begin)],
        plugins=[AtomicCheckpointIO(describe(config, data, objective), resumed), *slurm_plugins()],
        default_root_dir=str(run.path),
        accumulate_grad_batches=accumulate,
        val_check_interval=validate_every * accumulate,  # Lightning counts micro-batches
        _convert_="all",
    )
    if trainer.strategy.root_device.type == "cuda":
        torch.set_float32_matmul_precision(config.matmul_precision)
    return trainer


def build_callbacks(config: DictConfig, run: RunDirectory, data: ImageDataModule) -> list[pl.Callback]:
    """The callbacks that every run has, and those of the configuration."""
    from pytorch_lightning.callbacks import Timer

    from igpt.training.callbacks.keep_last import KeepLast
    from igpt.training.callbacks.step_counters import StepCounters
    from igpt.training.callbacks.stop_on_nan import StopOnNaN
    from igpt.training.callbacks.throughput import Throughput
    from igpt.training.callbacks.training_progress import TrainingProgress

    chosen = instantiate_all(config.callbacks)
    return [
        StopOnNaN(run.last),  # before the callbacks that save
        StepCounters(),
        Throughput(data.batch_size),
        KeepLast(run.last, config.save_every),
        TrainingProgress(config.monitor),
        Timer(),
        *(without_best_checkpoint(chosen) if data.trains_on_validation else chosen),
    ]


def build_loggers(config: DictConfig, run: RunDirectory, first_step: int | None = None) -> list[Any]:
    """The loggers of the configuration. One that takes the argument `first_step` is told where training begins."""
    from inspect import signature

    if config.logger and printable(run.path) != str(run.path):  # W&B and TensorBoard need the path in UTF-8
        log.warning("%s is not UTF-8, so no tracker can write there; metrics.csv has what it would show.", run.path)
        return []
    told = {"first_step": first_step}

    def arguments(logger: DictConfig) -> dict[str, Any]:
        return told if "first_step" in signature(get_object(logger._target_)).parameters else {}

    return [instantiate(logger, **arguments(logger), _convert_="all") for logger in parts(config.logger)]


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
        raise IgptError(f"{asked_for} cannot be used here: {' '.join(str(error).split())}") from None


def parts(group: DictConfig | None) -> list[DictConfig]:
    """The parts of a group of named parts; null, for one or all of them, is none."""
    return [part for part in (group or {}).values() if part is not None]


def instantiate_all(group: DictConfig | None) -> list[Any]:
    """What a group of named parts stands for."""
    return [instantiate(part, _convert_="all") for part in parts(group)]


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
