"""Opening the model and the data of a run, for several commands."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from igpt.configuration.app import plain
from igpt.configuration.stored import configuration_of
from igpt.errors import IgptError, some_of
from igpt.files import cache_root, expand_user
from igpt.registry import is_model_name
from igpt.run_directory import find_run, is_wandb_name, run_of

if TYPE_CHECKING:
    from pathlib import Path

    from igpt.data.datamodule import ImageDataModule
    from igpt.pretrained import Pretrained

log = logging.getLogger(__name__)


def load_model(config: DictConfig) -> Pretrained:
    """The trained model that a command's configuration names; on a GPU with its `matmul_precision`."""
    import torch

    from igpt.pretrained import load

    pretrained = load(config.run, config.device, config.checkpoint, config.weights)
    run, used = find_run(config.run), pretrained.loaded_from
    if config.checkpoint == "best" and used in (run.last, run.previous) and expand_user(config.run).is_dir():
        log.info("This run has no best checkpoint, so %s is used", used)
    if config.weights is None and pretrained.weights == "ema":
        log.info("The averaged weights are used, as for the best checkpoint; weights=trained chooses the others")
    if pretrained.device.type == "cuda":
        torch.set_float32_matmul_precision(config.matmul_precision)
    return pretrained


def data_of_run(run: str, pretrained: Pretrained) -> ImageDataModule:
    """The data that a run, or a model of igpt's table, was trained on, with the tokenizer of its checkpoint."""
    assert pretrained.loaded_from is not None
    if is_model_name(run):
        return open_data(configuration_of_named(run), pretrained)
    if pretrained.loaded_from.suffix != ".ckpt":  # only checkpoints of igpt come with their data
        raise IgptError(
            f"{run} is a model without data; name some with data=NAME (igpt-evaluate, igpt-probe), "
            "or the images to complete with images=FILES (igpt-sample; completions=0 needs none)."
        )
    directory = run_of(pretrained.loaded_from)
    config = configuration_of(directory)
    if is_wandb_name(run):
        refuse_other_classes(config.data, run)
        config.data.cache_dir = str(cache_root())
    return open_data(config, pretrained, directory.data)


def configuration_of_named(name: str) -> DictConfig:
    """The configuration that a model of igpt's table was trained with, with the cache of this machine.

    That of any other exported folder is not used, since it could name any class, which would be run.
    """
    from igpt.convert.read_model import read_model

    configuration = read_model(name).description.configuration
    if "data" not in configuration:
        raise IgptError(f"{name} brings no data; name some with data=NAME.")
    configuration["data"]["cache_dir"] = str(cache_root())
    return OmegaConf.create(configuration)


def refuse_other_classes(config: DictConfig, run: str) -> None:
    """Raise :class:`IgptError` if the configuration of a downloaded run names any class but those of igpt's schema:
    to use it would run that class.
    """
    from igpt.configuration.schema.components import foreign_targets

    if others := foreign_targets(plain(config)):
        raise IgptError(
            f"The configuration of {run} names {some_of(others)}, which is not run since it came from W&B; name the "
            "data with data=NAME (igpt-evaluate, igpt-probe)."
        )


def chosen_data(config: DictConfig, command: str, pretrained: Pretrained) -> ImageDataModule:
    """The data that a command's configuration names (data=NAME), at the resolution of a trained model."""
    from igpt.commands.init_from import RESOLUTION, check_values
    from igpt.configuration.chosen import chosen_keys

    source, side = config.data.source, pretrained.resolution
    if source.get("resolution", side) != side:
        if chosen_keys(config, [RESOLUTION]):
            raise IgptError(
                f"The model in run={config.run} is for images of {side}x{side}, so {RESOLUTION}={source.resolution} "
                "cannot be used; leave it out."
            )
        source.resolution = side
        check_values(config, command, f"run={config.run}")
        log.info("The images are packed at the model's resolution, %s=%d", RESOLUTION, side)
    return open_data(config, pretrained)


def name_of_data(config: DictConfig, data: ImageDataModule) -> str | None:
    """The name in the names of results of data that a command names (data=NAME), with their file or folder: cifar10,
    arrays-faces.npz; None for the data of the run.
    """
    if "data" not in config:
        return None
    path = config.data.source.get("path")
    names = [data.source.name] if path is None else [data.source.name, expand_user(path).resolve().name]
    return "-".join(dict.fromkeys(names))  # once, if the folder has the name of the data


def other_weights(config: DictConfig) -> list[str]:
    """What of a run was chosen beside the weights of its best checkpoint, for the names of results: ema, last."""
    run = expand_user(config.run)
    checkpoint = run.stem if run.suffix == ".ckpt" else config.checkpoint
    return [part for part in (config.weights, checkpoint) if part not in (None, "best")]


def open_data(config: Any, pretrained: Pretrained, record: Path | None = None) -> ImageDataModule:
    """The data of a configuration, packed if necessary, with the tokenizer of a trained model.

    Raises :class:`IgptError` if they have another resolution than the model, or differ from the `record` that a run
    keeps of its data.
    """
    from igpt.data.provenance import check_unchanged

    data: ImageDataModule = instantiate(config.data, seed=config.seed, _convert_="all")
    data.tokenizer = pretrained.tokenizer
    if record is not None:
        check_unchanged(data.source, record)
    if data.n_tokens != pretrained.model.config.n_positions:
        raise IgptError(
            f"The data have images of {data.source.resolution}x{data.source.resolution}, but the model is for images "
            f"of {pretrained.resolution}x{pretrained.resolution}; choose other data."
        )
    data.prepare_data()
    data.setup()
    return data
