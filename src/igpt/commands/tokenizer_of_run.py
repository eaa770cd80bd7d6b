"""Which tokenizer a run uses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hydra.utils import instantiate
from omegaconf import DictConfig

from igpt.errors import IgptError
from igpt.files import expand_user

if TYPE_CHECKING:
    from igpt.checkpoint import Checkpoint
    from igpt.data.datamodule import ImageDataModule
    from igpt.pretrained import Pretrained
    from igpt.tokenizers import Tokenizer
    from igpt.tokenizers.kmeans import PaletteRecipe


def tokenizer_of_run(
    config: DictConfig, data: ImageDataModule, resumed: Checkpoint | None = None, start: Pretrained | None = None
) -> Tokenizer:
    """The tokenizer of a run, by the first of these rules that applies:

    1. A resumed run keeps the tokenizer that its checkpoint holds.
    2. A run that starts from a trained model uses that model's; :mod:`igpt.commands.init_from` refuses any other one.
    3. The configuration names the tokenizer; the palette that it may need is read from `tokenizer.path`, or built from
       the training images of `data`, which must be open. Its tokens are in the configuration's `order`.
    """
    from igpt.data.cached_palette import cached_palette
    from igpt.tokenizers import Palette, tokenizer_from_state, with_order
    from igpt.tokenizers.kmeans import PaletteRecipe

    if resumed is not None:
        return tokenizer_from_state(resumed.description.tokenizer)
    if start is not None:
        return start.tokenizer
    tokenizer = configured_tokenizer(config)
    if isinstance(tokenizer, PaletteRecipe) and tokenizer.path is not None:
        tokenizer = Palette.load(expand_user(tokenizer.path))
    elif isinstance(tokenizer, PaletteRecipe):
        tokenizer = cached_palette(tokenizer, data)
    return with_order(tokenizer, config.get("order", "raster"))


def configured_tokenizer(config: DictConfig) -> Tokenizer | PaletteRecipe:
    """The tokenizer that the configuration names, or the recipe of its palette; :class:`IgptError` if it names
    something else.
    """
    from igpt.tokenizers import Tokenizer
    from igpt.tokenizers.kmeans import PaletteRecipe

    tokenizer = instantiate(config.tokenizer, _convert_="all")
    if not isinstance(tokenizer, Tokenizer | PaletteRecipe):
        raise IgptError(
            f"tokenizer._target_ is {config.tokenizer['_target_']}, which makes no igpt.tokenizers.Tokenizer; derive "
            "your tokenizer from that class."
        )
    return tokenizer
