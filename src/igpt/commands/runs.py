"""What several commands share: the model and the data of a run, and the end of tracking."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from igpt.commands.stored import configuration_of
from igpt.errors import IgptError
from igpt.run import find_run

if TYPE_CHECKING:
    from pathlib import Path

    from igpt.data.datamodule import ImageDataModule
    from igpt.pretrained import Pretrained

log = logging.getLogger(__name__)


def load_model(config: DictConfig) -> Pretrained:
    """The trained model that a command's configuration names; on a GPU, its products are as quick as in training."""
    import torch

    from igpt.pretrained import load

    if config.matmul_precision not in ("high", "highest"):
        raise IgptError(f"matmul_precision is '{config.matmul_precision}'; choose high (TF32) or highest.")
    pretrained = load(config.run, config.device, config.checkpoint)
    if pretrained.device.type == "cuda":
        torch.set_float32_matmul_precision(config.matmul_precision)
    return pretrained


def data_of_run(run: str, pretrained: Pretrained) -> ImageDataModule:
    """The data a run was trained on, with the tokenizer that its checkpoint carries."""
    directory = find_run(run)
    return open_data(configuration_of(directory), pretrained, directory.data)


def open_data(config: Any, pretrained: Pretrained, record: Path | None = None) -> ImageDataModule:
    """The data that a configuration names, packed if need be, under the tokenizer of a trained model; with the record
    that a run keeps of its data, only if they have not changed.
    """
    from igpt.data.record import check_record

    data: ImageDataModule = instantiate(config.data, tokenizer=config.tokenizer, seed=config.seed, _convert_="all")
    if record is not None:
        check_record(data.source, record)
    data.use_tokenizer(pretrained.tokenizer)
    data.prepare_data()
    data.setup()
    return data


def finish_tracking() -> None:
    """Close W&B's run, also after an error and between the jobs of a sweep."""
    wandb = sys.modules.get("wandb")
    if wandb is None or wandb.run is None:
        return
    folder = wandb.run.settings.sync_dir
    try:
        wandb.finish()
    except TimeoutError:
        log.warning("W&B did not take everything in time; `wandb sync %s` uploads the rest.", folder)
