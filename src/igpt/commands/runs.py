"""What the commands that look at a finished run share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hydra.utils import instantiate
from omegaconf import OmegaConf

from igpt.errors import IgptError
from igpt.run import find_run

if TYPE_CHECKING:
    from igpt.data.datamodule import ImageDataModule
    from igpt.pretrained import Pretrained


def data_of_run(run: str, pretrained: Pretrained) -> ImageDataModule:
    """The data a run was trained on, with the tokenizer that its checkpoint carries."""
    directory = find_run(run)
    if not directory.config.exists():
        raise IgptError(f"{directory.config} is missing, so the run's data is not known; give a whole run directory.")
    config = OmegaConf.load(directory.config)
    data: ImageDataModule = instantiate(config.data, tokenizer=config.tokenizer, seed=config.seed, _convert_="all")
    data.use_tokenizer(pretrained.tokenizer)
    data.prepare_data()
    data.setup()
    return data
