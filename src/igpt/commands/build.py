"""From a configuration to the data of a training run, and to the model and task that are trained on them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from hydra.utils import instantiate
from omegaconf import DictConfig

from igpt.cluster.ranks import is_main_process
from igpt.configuration.app import plain
from igpt.errors import IgptError, in_one_line
from igpt.files import all_printable
from igpt.run_directory import RunDirectory

if TYPE_CHECKING:
    from torch import Tensor

    from igpt.checkpoint import Checkpoint, Description
    from igpt.data.datamodule import ImageDataModule
    from igpt.model.config import TransformerConfig
    from igpt.model.transformer import Transformer
    from igpt.objectives.objective import Objective
    from igpt.objectives.tasks import Task
    from igpt.pretrained import Pretrained
    from igpt.tokenizers import Tokenizer

log = logging.getLogger(__name__)


def build_data(
    config: DictConfig, run: RunDirectory, processes: int, resumed: Checkpoint | None, start: Pretrained | None
) -> ImageDataModule:
    """The data for so many processes, packed, with the run's tokenizer.

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
    data.accumulation(processes)  # raises IgptError, before data are packed
    data.prepare_data()
    data.setup()
    data.tokenizer = tokenizer_of_run(config, data, resumed, start)
    if resumed is not None:
        check_palette(run, data.tokenizer)
    data.check_batch_size()
    require_images_of(data, config.image_class, "image_class")
    if is_main_process() and not run.trained:
        DataRecord.of(data.source).save(run.data)
    palette = palette_of(data.tokenizer)
    if palette is not None and is_main_process() and not (run.trained and run.palette.exists()):
        palette.save(run.palette)
    log.info("%s", data.describe())
    return data


def build_task(config: DictConfig, resumed: Checkpoint | None, start: Pretrained | None) -> Task:
    """What the model is trained for: what it was trained for in a resumed run, or else the configuration's task."""
    from igpt.objectives.tasks import task_from_state

    if resumed is not None:
        return task_from_state(resumed.description.task)
    task = configured_task(config)
    return task if start is None else task.starting_from(start.task)


def configured_task(config: DictConfig) -> Task:
    """The task that the configuration names; :class:`IgptError` if it names something else."""
    from igpt.objectives.tasks import Task

    task = instantiate(config.objective, _convert_="all")
    if not isinstance(task, Task):
        raise IgptError(
            f"objective._target_ is {config.objective['_target_']}, which makes no igpt.objectives.tasks.Task; derive "
            "your task from that class."
        )
    return task


def build_objective(
    config: DictConfig, data: ImageDataModule, resumed: Checkpoint | None, start: Pretrained | None
) -> Objective:
    """The objective, with a model that fits the tokenizer: untrained, or with the weights to start from."""
    from igpt.model.rotary import cell_coordinates
    from igpt.model.transformer import Transformer
    from igpt.objectives.objective import Objective
    from igpt.training.optimizers import OptimConfig

    task = build_task(config, resumed, start)
    data.transformed = task.transformed
    n_classes = number_of_classes(data) if task.needs_classes else 0
    shape = model_config_for(config, data.tokenizer.vocab_size, data.n_tokens, task.causal)
    grid = data.tokenizer.grid(data.n_tokens)
    if shape.rotary == "2d" and shape.positions == "none" and grid.shape[-1] > 1:
        raise IgptError(
            f"model.rotary=2d alone does not tell the {grid.shape[-1]} tokens of a pixel apart; set "
            "model.positions=learned as well."
        )
    model = Transformer(shape, cell_coordinates(grid) if shape.rotary == "2d" else None)
    model.checkpointing = config.activation_checkpointing
    if config.compile:
        model.compile()
    if start is not None:
        copy_weights(model, start, config, data.tokenizer)
    optim = instantiate(config.optim, _convert_="all")
    if isinstance(optim, OptimConfig):
        optim = replace(optim, bfloat16=str(config.trainer.precision).startswith("bf16"))
    objective = Objective(model, task, optim.configure, n_classes)
    objective.save_hyperparameters({**all_printable(plain(config)), "model": asdict(model.config)})  # for trackers
    return objective


def describe(config: DictConfig, data: ImageDataModule, objective: Objective) -> Description:
    """What the checkpoints of a run say about its model."""
    from igpt.checkpoint import Description
    from igpt.code_commit import code_commit
    from igpt.objectives.tasks import task_state
    from igpt.tokenizers import tokenizer_state

    check_restorable(objective.task, data.tokenizer)
    return Description(
        model=asdict(objective.model.config),
        task=task_state(objective.task),
        tokenizer=tokenizer_state(data.tokenizer),
        classes=list(data.source.classes),
        data=data.source.key(),
        configuration=all_printable(plain(config)),
        commit=code_commit(),
    )


def check_restorable(task: Task, tokenizer: Tokenizer) -> None:
    """Raise :class:`IgptError` if a task or tokenizer of the user's could not be restored from a checkpoint."""
    from igpt.objectives.tasks import task_from_state, task_state
    from igpt.tokenizers import tokenizer_from_state, tokenizer_state

    checks: list[tuple[Task | Tokenizer, Callable[[], bool]]] = [
        (task, lambda: task_from_state(task_state(task)) == task),
        (tokenizer, lambda: tokenizer_from_state(tokenizer_state(tokenizer)).fingerprint == tokenizer.fingerprint),
    ]
    for part, is_restored in checks:
        reason = "the result differs from it"
        try:
            restored = is_restored()
        except Exception as error:  # whatever the user's class raises
            restored, reason = False, in_one_line(error)
        if not restored:
            raise IgptError(
                f"{part!r} cannot be restored from its state ({reason}); from_state must make an equal object "
                "from what state returns, which must have no key 'name'."
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


def model_config_for(config: DictConfig, vocab_size: int, n_tokens: int, causal: bool) -> TransformerConfig:
    """The model of the configuration, for images of `n_tokens` tokens."""
    from igpt.model.config import TransformerConfig

    if config.model.n_positions not in (None, n_tokens):
        raise IgptError(
            f"model.n_positions is {config.model.n_positions}, but an image has {n_tokens} tokens; leave "
            "model.n_positions=null, or change data.source.resolution."
        )
    known = {"n_positions": n_tokens, "vocab_size": vocab_size, "causal": causal}
    return TransformerConfig(**{**plain(config.model), **known})


def copy_weights(model: Transformer, start: Pretrained, config: DictConfig, tokenizer: Tokenizer) -> None:
    """Copy the weights of a trained model into one of the same shape, or of another resolution if position embeddings
    are to be interpolated.
    """
    from igpt.model.config import TRAINING_ONLY

    weights, side = start.model.state_dict(), tokenizer.resolution(model.config.n_positions)
    if model.rotary is not None:
        weights["rotary.coordinates"] = model.rotary.coordinates
    wanted, found = asdict(model.config), asdict(start.model.config)
    if config.interpolate_positions and wanted["n_positions"] != found["n_positions"]:
        weights |= interpolated_positions(start, model.config.n_positions)
        log.info("Interpolated the position embeddings from %dx%d to %dx%d", *[start.resolution] * 2, side, side)
        found["n_positions"] = wanted["n_positions"]
    differences = [
        f"{key}={found[key]} instead of {wanted[key]}"
        for key in wanted
        if wanted[key] != found[key] and key not in TRAINING_ONLY
    ]
    if differences:
        raise IgptError(
            f"The model in init_from={config.init_from} has {', '.join(differences)}; choose data of its resolution, "
            f"{start.resolution}x{start.resolution}, or set interpolate_positions=true."
        )
    model.load_state_dict(weights)


def interpolated_positions(start: Pretrained, n_positions: int) -> dict[str, Tensor]:
    """The position embeddings of a trained model, for another number of positions, by their name in its state dict.
    Rotary positions need none.
    """
    from igpt.model.position_grid import interpolate_positions
    from igpt.model.transformer import LearnedPositions

    learned, tokenizer, shape = start.model.position_embedding, start.tokenizer, start.model.config
    if shape.positions == "none" and shape.rotary is not None:
        return {}
    if not isinstance(learned, LearnedPositions):
        raise IgptError(
            "interpolate_positions=true is for model.positions=learned or model.rotary, but the model in init_from has "
            f"model.positions={shape.positions}; choose data of its resolution."
        )
    old, new = (tokenizer.grid(n) for n in (shape.n_positions, n_positions))
    return {"position_embedding.weight": interpolate_positions(learned.weight.detach(), old, new)}
