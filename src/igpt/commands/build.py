"""From a configuration to the parts of a training: data, objective, trainer."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from hydra.utils import get_class, get_object, instantiate
from omegaconf import DictConfig

from igpt.cluster.ranks import is_main_process
from igpt.configuration.app import plain
from igpt.errors import IgptError
from igpt.files import all_printable, printable
from igpt.run_directory import RunDirectory

if TYPE_CHECKING:
    import pytorch_lightning as pl

    from igpt.data.datamodule import ImageDataModule
    from igpt.model.config import TransformerConfig
    from igpt.objectives.objective import Objective
    from igpt.objectives.tasks import Task
    from igpt.pretrained import Pretrained
    from igpt.tokenizers import Tokenizer

log = logging.getLogger(__name__)


def starting_point(config: DictConfig, run: RunDirectory) -> Pretrained | None:
    """The trained model that `init_from` names; a run that is gone on with has it in its own checkpoint."""
    from igpt.pretrained import load

    if config.init_from is None:
        return None
    if config.tokenizer.get("path") is not None:
        raise IgptError("init_from and tokenizer.path both name a palette; leave tokenizer.path=null.")
    start = load(run.last if run.last.exists() else config.init_from, device="cpu")
    check_tokenizer(config, start.tokenizer)
    return start


def check_tokenizer(config: DictConfig, tokenizer: Tokenizer) -> None:
    """Refuse a configuration that asks for another tokenizer than a model to start from brings: that would be recorded,
    and not used.
    """
    from igpt.tokenizers import Ordered, palette_of
    from igpt.tokenizers.kmeans import PaletteRecipe
    from igpt.tokenizers.orders import RASTER

    inner, order = (
        (tokenizer.tokenizer, tokenizer.order_name) if isinstance(tokenizer, Ordered) else (tokenizer, RASTER)
    )
    asked, palette = instantiate(config.tokenizer), palette_of(tokenizer)
    if isinstance(asked, PaletteRecipe):
        same = palette is not None and palette.vocab_size == asked.size
    else:
        same = asked.fingerprint == inner.fingerprint
    if not same or config.order != order:
        name = f"palette tokenizer.size={palette.vocab_size}" if palette else inner.fingerprint
        raise IgptError(
            f"The model in init_from={config.init_from} brings its own tokenizer, which differs from this "
            f"configuration's; set tokenizer={name} order={order}."
        )


def build_data(config: DictConfig, run: RunDirectory, start: Pretrained | None) -> ImageDataModule:
    """The data, packed, and its tokenizer: the one of the model to start from, or the run's own if it has one.

    A new run keeps a record of its data; one that is resumed refuses data that have changed.
    """
    from igpt.configuration.class_names import number_classes, require_images_of
    from igpt.data.provenance import DataRecord, check_unchanged
    from igpt.tokenizers import Palette, palette_of, with_order

    data: ImageDataModule = instantiate(
        config.data, tokenizer=config.tokenizer, order=config.order, seed=config.seed, _convert_="all"
    )
    if run.trained:
        check_unchanged(data.source, run.data)
    number_classes(config, data)
    data.accumulation(n_processes(config))  # raises IgptError, before data are packed
    if start is not None:
        data.use_tokenizer(start.tokenizer)
    elif run.trained and run.palette.exists() and "path" in config.tokenizer and config.tokenizer.path is None:
        data.use_tokenizer(with_order(Palette.load(run.palette), config.order))
    data.prepare_data()
    data.setup()
    data.check_batch_size()
    require_images_of(data, config.showcase_class, "showcase_class")
    if is_main_process() and not run.trained:
        DataRecord.of(data.source).save(run.data)
    palette = palette_of(data.tokenizer)
    if palette is not None and is_main_process() and not (run.trained and run.palette.exists()):
        palette.save(run.palette)
    log.info("%s", data.describe())
    return data


def build_objective(config: DictConfig, data: ImageDataModule, start: Pretrained | None) -> Objective:
    """The objective with a model that fits the tokenizer: fresh, or with the weights to start from.

    What a checkpoint needs to be loaded again is in its hyperparameters: the whole configuration, the model's shape,
    the task and the classes.
    """
    from igpt.model.transformer import Transformer
    from igpt.objectives.classify import ClassificationObjective

    settings = plain(config.objective)
    objective_class: Any = get_class(settings.pop("_target_"))
    given: dict[str, Any] = {}
    if issubclass(objective_class, ClassificationObjective):
        given = {"task": task_to_tune(settings.pop("task"), start), "n_classes": number_of_classes(data)}
    causal = given["task"].causal if given else objective_class.causal
    model = Transformer(model_config_for(plain(config.model), data, causal))
    model.checkpointing = config.activation_checkpointing
    if config.compile:
        model.compile()
    if start is not None:
        start_from(model, start, str(config.init_from))
    configure = instantiate(config.optim, _convert_="all").configure
    objective: Objective = objective_class(model=model, configure=configure, **given, **settings)
    objective.save_hyperparameters(
        {
            **all_printable(plain(config)),  # trackers get it, too
            "model": asdict(model.config),
            "task": objective.task.state(),
            "classes": list(data.source.classes),
        }
    )
    return objective


def task_to_tune(name: str | None, start: Pretrained | None) -> Task:
    """The pre-training task that goes on beside classification: the one the model was trained with, or the one that
    objective.task (`name`) says for a model from scratch.
    """
    from igpt.objectives.tasks import task_from_state

    if start is not None:
        return start.task
    return task_from_state({"name": name})


def number_of_classes(data: ImageDataModule) -> int:
    """How many classes there are to learn; IgptError unless every training and some validation image has one."""
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


def build_trainer(config: DictConfig, run: RunDirectory, data: ImageDataModule) -> pl.Trainer:
    """Lightning's trainer, with the callbacks that every run has and those of the configuration."""
    import torch

    from igpt.pretrained import first_step
    from igpt.training.checkpoint_io import AtomicCheckpointIO
    from igpt.training.loggers.metrics_csv import MetricsCSV

    begin = first_step(run)
    accumulate = data.accumulation(n_processes(config))
    validate_every = min(config.trainer.val_check_interval, config.trainer.max_steps)
    trainer: pl.Trainer = instantiate(
        config.trainer,
        callbacks=build_callbacks(config, run, data),
        logger=[MetricsCSV(run.metrics, begin), *build_loggers(config, run, begin)],
        plugins=[AtomicCheckpointIO(), *slurm_plugins()],
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
    """The callbacks of a run that trains on its validation images, which so must not choose a checkpoint."""
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
