"""A trained image GPT as one object: model and tokenizer, from a run or a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from igpt.errors import IgptError
from igpt.model.config import TransformerConfig
from igpt.model.transformer import Transformer
from igpt.objectives.losses import autoregressive_nats
from igpt.run import RunDirectory, find_checkpoint, find_run
from igpt.sampling import generate
from igpt.tokenizers import Palette, Tokenizer, from_state

Images = NDArray[np.uint8]  # (N, H, W, 3)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint file, read without running any code from it."""
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        checkpoint["hyper_parameters"]["model"], checkpoint["ImageDataModule"]["tokenizer"]
    except Exception as error:  # torch.load raises whatever its readers stumble over
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise IgptError(
            f"{path} is not a checkpoint of igpt that can be read ({type(error).__name__}: {reason}); if it is "
            "damaged, use the run's other checkpoint."
        ) from None
    return checkpoint


def load(run: str | Path, device: str | torch.device | None = None, checkpoint: str = "best") -> Pretrained:
    """Load a run directory (its `best` or `last` checkpoint) or a checkpoint file; on a GPU if there is one."""
    content = read_checkpoint(find_checkpoint(run, checkpoint))
    model = Transformer(TransformerConfig(**content["hyper_parameters"]["model"]))
    weights = content["state_dict"].items()
    model.load_state_dict({name.removeprefix("model."): w for name, w in weights if name.startswith("model.")})
    tokenizer = from_state(content["ImageDataModule"]["tokenizer"])
    check_palette(find_run(run), tokenizer)
    return Pretrained(model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")), tokenizer)


def check_palette(run: RunDirectory, tokenizer: Tokenizer) -> None:
    """Refuse a run directory whose palette.npz is not the one in its checkpoint."""
    if run.palette.exists() and (found := Palette.load(run.palette).fingerprint) != tokenizer.fingerprint:
        raise IgptError(
            f"{run.palette} is the palette {found}, but the run's checkpoint was trained with {tokenizer.fingerprint}; "
            "put the right file back, or delete it: the checkpoint carries its own."
        )


class Pretrained:
    """A model and the tokenizer it was trained with. Images are uint8 arrays (N, H, W, 3)."""

    def __init__(self, model: Transformer, tokenizer: Tokenizer, batch_size: int = 64) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.batch_size = batch_size

    @property
    def device(self) -> torch.device:
        return self.model.head.weight.device

    @property
    def resolution(self) -> int:
        """Pixels a side."""
        return round(self.model.config.n_positions**0.5)

    def sample(self, n: int, seed: int = 0, **how: Any) -> Images:
        """Draw n pictures; `how` takes temperature, top_k and top_p."""
        return self._draw(torch.empty(n, 0, dtype=torch.long), seed, **how)

    def complete(self, images: Images, n: int = 1, given: float = 0.5, seed: int = 0, **how: Any) -> Images:
        """N completions (N, n, H, W, 3) of each image, of which the upper part `given` (whole rows) is shown."""
        prompt = self.tokenize(images)[:, : self.given_rows(given) * self.resolution]
        drawn = self._draw(prompt.repeat_interleave(n, dim=0), seed, **how)
        return drawn.reshape(len(images), n, *drawn.shape[1:])

    def given_rows(self, given: float) -> int:
        """Rows of pixels that make up the share `given` of a picture."""
        if not 0 <= given <= 1:
            raise IgptError(f"given is {given}; it is the share of a picture that is shown, from 0 to 1.")
        return round(given * self.resolution)

    @torch.inference_mode()
    def features(self, images: Images, layer: int | None = None) -> NDArray[np.float32]:
        """Mean-pooled features (N, C) of one layer, or of all layers and the final norm (N, L + 1, C)."""
        pooled = torch.cat([self.model.features(tokens) for tokens in self._batches(images)])
        return (pooled if layer is None else pooled[:, layer]).float().cpu().numpy()

    @torch.inference_mode()
    def log_likelihood(self, images: Images) -> NDArray[np.float64]:
        """Log p of each image's tokens (N,), in nats, summed over the positions."""
        nats = torch.cat([autoregressive_nats(self.model, tokens).double() for tokens in self._batches(images)])
        return (-nats * self.model.config.n_positions).cpu().numpy()

    def tokenize(self, images: Images) -> Tensor:
        """Tokens (N, T) of images, which must have the model's resolution."""
        side = self.resolution
        if images.ndim != 4 or images.shape[1:] != (side, side, 3) or images.dtype != np.uint8:
            raise IgptError(
                f"The model takes uint8 images of shape (N, {side}, {side}, 3); these are {images.dtype} of shape "
                f"{images.shape}."
            )
        return self.tokenizer.encode(torch.from_numpy(np.array(images)))

    def _batches(self, images: Images) -> Iterator[Tensor]:
        for tokens in self.tokenize(images).split(self.batch_size):
            yield tokens.to(self.device)

    def _draw(self, prompts: Tensor, seed: int, **how: Any) -> Images:
        generator = torch.Generator(self.device).manual_seed(seed)
        parts = [
            generate(self.model, prompt.to(self.device), generator, **how) for prompt in prompts.split(self.batch_size)
        ]
        return self.tokenizer.decode(torch.cat(parts).cpu()).numpy()
