"""The model that `init_from` names: its weights, and the values of the configuration that it determines."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from igpt.commands.tokenizer_of_run import configured_tokenizer
from igpt.configuration.chosen import chosen_keys
from igpt.configuration.resume import resumes
from igpt.configuration.stored import configuration_of
from igpt.errors import IgptError
from igpt.model.config import TRAINING_ONLY, TransformerConfig
from igpt.run_directory import RunDirectory

if TYPE_CHECKING:
    from igpt.pretrained import Pretrained
    from igpt.tokenizers import Tokenizer

log = logging.getLogger(__name__)

OF_THE_DATA = ("vocab_size", "n_positions", "causal")  # what data and objective say of a model
SHAPE = tuple(f.name for f in fields(TransformerConfig) if f.name not in OF_THE_DATA + TRAINING_ONLY)
RESOLUTION = "data.source.resolution"
# The keys whose values come from the model in init_from, unless they were chosen.
KEYS = (*(f"model.{name}" for name in SHAPE), "tokenizer", "order", RESOLUTION, "objective.task")


def starting_point(config: DictConfig, command: str, run: RunDirectory | None = None) -> Pretrained | None:
    """The trained model that `init_from` names; None without one, or if `run` has a checkpoint to resume from.

    The values that the model determines are set in the command's configuration, in place. Those of a run with a
    checkpoint are taken from its stored configuration, so that the model need not exist any longer. Raises
    :class:`IgptError` if other values were chosen.
    """
    from igpt.pretrained import load

    if config.init_from is None:
        return None
    if run is not None and (run.last.exists() or run.previous.exists()):
        if not resumes() and run.config.exists():
            stored, chosen = configuration_of(run), chosen_keys(config, KEYS)
            if str(Path(config.init_from).absolute()) == stored.init_from:  # a relative path to what has gone
                config.init_from = stored.init_from
            values = {key: OmegaConf.select(stored, key) for key in KEYS if key not in chosen}
            take(config, {key: value for key, value in values.items() if value is not None})  # not all have each key
        return None
    if config.tokenizer.get("path") is not None:
        raise IgptError("init_from and tokenizer.path both name a palette; leave tokenizer.path=null.")
    start = load(config.init_from, device="cpu")
    check_objective(config, start)
    values = values_of(config, start)
    refuse_other_choices(config, values)
    take(config, values)
    if values:
        log.info("Taken from the model in init_from=%s: %s", config.init_from, ", ".join(written(values)))
    check_values(config, command, f"init_from={config.init_from}")
    return start


def values_of(config: DictConfig, start: Pretrained) -> dict[str, Any]:
    """The values that the model determines and that differ from the configuration's, by key."""
    shape = start.model.config
    tokenizer, order = tokenizer_and_order(start.tokenizer)
    values = {
        **{f"model.{name}": getattr(shape, name) for name in SHAPE},
        "order": order,
        **({} if config.interpolate_positions else {RESOLUTION: start.resolution}),
        **task_value(config, start),
    }
    differing = {key: value for key, value in values.items() if OmegaConf.select(config, key) != value}
    if "resolution" not in config.data.source:  # a source of one resolution only
        differing.pop(RESOLUTION, None)
    same = has_tokenizer(config, tokenizer)
    return differing if same else {"tokenizer": tokenizer_part(config, tokenizer), **differing}


def tokenizer_and_order(tokenizer: Tokenizer) -> tuple[Tokenizer, str]:
    """A tokenizer in raster order, and the name of its order."""
    from igpt.tokenizers import Ordered
    from igpt.tokenizers.orders import RASTER

    if isinstance(tokenizer, Ordered):
        return tokenizer.tokenizer, tokenizer.order_name
    return tokenizer, RASTER


def has_tokenizer(config: DictConfig, tokenizer: Tokenizer) -> bool:
    """Whether the configuration describes this tokenizer; of a palette, it has only the size."""
    from igpt.tokenizers import Palette
    from igpt.tokenizers.kmeans import PaletteRecipe

    configured = configured_tokenizer(config)
    if isinstance(configured, PaletteRecipe):
        return isinstance(tokenizer, Palette) and tokenizer.vocab_size == configured.size
    return configured.fingerprint == tokenizer.fingerprint


def tokenizer_part(config: DictConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """The part of a configuration that describes a tokenizer."""
    from igpt.tokenizers import RGB, Gray, Palette
    from igpt.tokenizers.kmeans import PaletteRecipe

    if isinstance(tokenizer, Palette):
        recipe = PaletteRecipe(size=tokenizer.vocab_size)
        return {"_target_": "igpt.tokenizers.kmeans.PaletteRecipe", **asdict(recipe)}
    if isinstance(tokenizer, RGB | Gray):
        return {"_target_": f"igpt.tokenizers.{type(tokenizer).__name__}"}
    target = f"{type(tokenizer).__module__}.{type(tokenizer).__qualname__}"
    part = {"_target_": target, **tokenizer.state()}
    try:
        same = has_tokenizer(OmegaConf.create({"tokenizer": part}), tokenizer)
    except Exception:  # the state of a user's class need not be the arguments of its constructor
        same = False
    if not same:
        raise IgptError(
            f"The model in init_from={config.init_from} has a tokenizer whose arguments do not follow from its state; "
            f"choose it: tokenizer._target_={target}, with its arguments."
        )
    return part


def task_value(config: DictConfig, start: Pretrained) -> dict[str, Any]:
    """The pre-training task of a classifier. A user's own task has no name that a configuration could contain."""
    from igpt.commands.build import configured_task
    from igpt.objectives.tasks import Classification, task_state

    if not isinstance(configured_task(config), Classification):
        return {}
    name = task_state(start.task)["name"]
    return {"objective.task": name if name in ("ar", "mlm") else None}


def check_objective(config: DictConfig, start: Pretrained) -> None:
    """Raise :class:`IgptError` if the objective trains a model of the other kind."""
    from igpt.commands.build import configured_task

    found = start.model.config.causal
    if configured_task(config).starting_from(start.task).causal != found:
        kinds = {True: "autoregressive", False: "masked"}
        objective = "ar" if found else "mlm"
        raise IgptError(
            f"The model in init_from={config.init_from} is {kinds[found]}, but the objective is for a model that is "
            f"{kinds[not found]}; choose objective={objective} or objective=classify."
        )


def refuse_other_choices(config: DictConfig, values: Mapping[str, Any]) -> None:
    """Raise :class:`IgptError` if other values than the model's were chosen."""
    name = config.init_from
    chosen = set(values) if resumes() else chosen_keys(config, values)
    if not chosen:
        return
    found = ", ".join(written({key: values[key] for key in values if key in chosen}))
    other = ", ".join(written({key: OmegaConf.select(config, key) for key in values if key in chosen}))
    if resumes():
        raise IgptError(
            f"The model in init_from={name} has {found}, but the run began from one with {other}; put that model back, "
            "or begin a new run."
        )
    way_out = ", or set interpolate_positions=true to train at another resolution" if RESOLUTION in chosen else ""
    raise IgptError(
        f"The model in init_from={name} has {found}, but this configuration chooses {other}; leave that choice "
        f"out{way_out}."
    )


def written(values: Mapping[str, Any]) -> list[str]:
    """Values as they are written in arguments."""
    from igpt.configuration.schema.values import format_value

    texts = []
    for key, value in values.items():
        if key != "tokenizer":
            texts.append(f"{key}={format_value(value)}")
        elif "size" in value:
            texts.append(f"tokenizer=palette tokenizer.size={value['size']}")
        else:
            target = str(value["_target_"])
            ours = target.startswith("igpt.tokenizers.")
            texts.append(f"tokenizer={target.rpartition('.')[2].lower()}" if ours else f"tokenizer._target_={target}")
    return texts


def take(config: DictConfig, values: Mapping[str, Any]) -> None:
    """Set values of the configuration, in place."""
    for key, value in values.items():
        OmegaConf.update(config, key, value, merge=False, force_add=True)


def check_values(config: DictConfig, command: str, model: str) -> None:
    """Check a command's configuration again, with the values that a `model` determines."""
    from igpt.configuration.schema.check import check

    try:
        check(config, command)
    except IgptError as error:
        raise IgptError(f"With the values that the model in {model} determines, {error}") from None
