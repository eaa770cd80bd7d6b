"""A trained image GPT as one object: model, tokenizer and task, loaded from a run or a checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from igpt.batch import TokenBatch
from igpt.convert.read_model import read_model
from igpt.convert.stored_model import StoredModel, weights_below
from igpt.data.image_input import as_images, as_mask
from igpt.errors import IgptError, reason_of, some_of
from igpt.generation.sample_tokens import fill_tokens, sample_tokens
from igpt.generation.sampling_config import SamplingConfig
from igpt.model.config import TransformerConfig
from igpt.model.transformer import Transformer
from igpt.objectives.tasks import Classification, Masked, Task, predict_classes, task_from_state
from igpt.progress import track
from igpt.run_directory import RunDirectory, run_of
from igpt.tokenizers import Palette, Tokenizer, palette_of, tokenizer_from_state

log = logging.getLogger(__name__)

Images = NDArray[np.uint8]  # (N, H, W, 3)
AnyImages = Any  # what :func:`~igpt.data.image_input.as_images` takes


def load(
    run: str | Path,
    device: str | torch.device | None = None,
    checkpoint: str = "best",
    weights: str | None = None,
) -> Pretrained:
    """Load what `run` names: a run directory (its `best` or `last` checkpoint), a checkpoint file, a folder that
    igpt-export wrote or that has an ImageGPT of transformers, such a model on the Hugging Face Hub (OWNER/NAME), a
    TensorFlow checkpoint of OpenAI's release (its folder, or its path), a model of igpt's own table (emoji-nano), or an
    artifact of W&B (wandb:ENTITY/PROJECT/NAME:ALIAS).

    Of a run with averaged weights, `weights` chooses "trained" or "ema"; None are those by which its best checkpoint is
    chosen. `device` None is a GPU if there is one. Raises :class:`IgptError` if the model or the device cannot be used.
    """
    device = usable_device(device)
    found = read_model(run, checkpoint, weights)
    pretrained = from_stored(found)
    if found.path.suffix == ".ckpt":  # results of other models may lie in the directory of a run
        check_palette(run_of(found.path), pretrained.tokenizer)
    return pretrained.to(device)


def from_stored(found: StoredModel) -> Pretrained:
    """The model that a file describes, in float32 on the CPU."""
    description = found.description
    model = Transformer(TransformerConfig(**description.model))
    model.load_state_dict(weights_below("model.", found.weights))
    tokenizer = tokenizer_from_state(description.tokenizer)
    task = task_from_state(description.task)
    if isinstance(task, Classification):
        pretrained = Pretrained(model, tokenizer, task.pretraining)
        pretrained.class_head = task.make_head(model.config, len(description.classes))
        pretrained.class_head.load_state_dict(weights_below("head.", found.weights))
        pretrained.classes = tuple(description.classes)
        pretrained.votes = task.votes
    else:
        pretrained = Pretrained(model, tokenizer, task)
        if weights_below("head.", found.weights):
            log.info(
                "The head that %s trained beside the model is left out: only classifiers are loaded",
                type(task).__name__,
            )
    pretrained.loaded_from = found.path
    pretrained.weights = found.chosen
    pretrained.trained_on = description.data or None
    return pretrained


def usable_device(device: str | torch.device | None) -> torch.device:
    """The device of this name; None is a GPU if there is one. Raises :class:`IgptError` if this machine lacks it."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch raises any of them
        reason = reason_of(error)[:120]
        raise IgptError(f"device is '{device}', which cannot be used here ({reason}); choose cpu.") from None


def check_palette(run: RunDirectory, tokenizer: Tokenizer) -> None:
    """Raise :class:`IgptError` if the palette.npz of a run directory is not the one in its checkpoint."""
    palette = palette_of(tokenizer)
    if palette is None or not run.palette.exists():
        return
    if (found := Palette.load(run.palette).fingerprint) != palette.fingerprint:
        raise IgptError(
            f"{run.palette} is the palette {found}, but the run's checkpoint was trained with {palette.fingerprint}; "
            "put the right file back, or delete it: the checkpoint contains the palette."
        )


def in_parts_that_fit(work: Callable[[TokenBatch], Tensor], batch: TokenBatch) -> Tensor:
    """`work(batch)`, which has one row per image; computed in halves where the whole does not fit a GPU's memory."""
    images = len(batch.tokens)
    try:
        return work(batch)
    except torch.OutOfMemoryError:
        if images == 1:
            raise
    halves = (slice(images // 2), slice(images // 2, images))
    return torch.cat([in_parts_that_fit(work, TokenBatch(*(part[half] for part in batch))) for half in halves])


class Pretrained:
    """A model with the tokenizer and the task it was trained with, and with its classifier if it was fine-tuned.

    Methods return images as uint8 arrays (N, H, W, 3). They take such an array or tensor, one image, or a list of
    images, also PIL images of any size: see :func:`~igpt.data.image_input.as_images`. At most `batch_size` images are
    in the model at once; no result depends on that, except for rounding.
    """

    def __init__(self, model: Transformer, tokenizer: Tokenizer, task: Task, batch_size: int = 64) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.task = task
        self.batch_size = batch_size
        self.class_head: nn.Linear | None = None
        self.classes: tuple[str, ...] = ()
        self.votes = 1
        self.loaded_from: Path | None = None
        self.weights = "trained"  # which weights of a checkpoint these are: trained or ema
        self.trained_on: dict[str, Any] | None = None  # the key of the source of images

    def __repr__(self) -> str:
        """Objective, size, resolution, tokenizer, classes, device and file."""
        shape, side = self.model.config, self.resolution
        objective = "autoregressive" if self.task.causal else "masked"
        classes = f", {len(self.classes)} classes ({some_of(self.classes)})" if self.classes else ""
        return (
            f"<igpt.Pretrained: {objective}, {shape.n_layer} layers x {shape.n_embd}, {side}x{side} pixels, "
            f"{self.tokenizer!r}{classes}, on {self.device}, from {self.loaded_from or 'no file'}>"
        )

    def to(self, device: str | torch.device) -> Pretrained:
        device = usable_device(device)
        self.model.to(device)
        if self.class_head is not None:
            self.class_head.to(device)
        return self

    @property
    def device(self) -> torch.device:
        return self.model.head.weight.device

    @property
    def resolution(self) -> int:
        """Pixels per side."""
        return self.tokenizer.resolution(self.model.config.n_positions)

    @property
    def predicts_tokens(self) -> bool:
        """Whether the model has an output matrix. That of a classifier from transformers is missing, so it is zero."""
        return self.class_head is None or bool(self.model.head.weight.any())

    def _require_predictions(self) -> None:
        if not self.predicts_tokens:
            raise IgptError(
                "This classifier has no output matrix, as after training in transformers or without a generative loss, "
                "so it only classifies and gives features; use the model that it was fine-tuned from."
            )

    # Images

    def sample(self, n: int, seed: int = 0, sampling: SamplingConfig | None = None) -> Images:
        """Generate n images (n, H, W, 3).

        Image i is a function of the seed and i: `sample(3)` returns the first three images of `sample(8)`, whatever the
        batch size, the number of threads or the memory. Only rounding, which may differ between batch sizes, can
        change the choice between two tokens that are almost equally likely. A masked model samples best if it was
        trained with objective.max_ratio=1.
        """
        nothing = torch.empty(1, 0, dtype=torch.long)
        return self._continue(nothing, n, seed, sampling)

    def complete(
        self,
        images: AnyImages,
        n: int = 1,
        given: float = 0.5,
        seed: int = 0,
        sampling: SamplingConfig | None = None,
    ) -> Images:
        """Generate n completions of each image, (N, n, H, W, 3).

        The model is given the first part of each image in its order of pixels, `given` of all pixels: in raster order
        the upper rows. Completion c of image i is a function of the seed, i, c and what is given, as in :meth:`sample`.
        """
        prompts = self.tokenize(images)[:, : self._n_given(given)]
        completions = self._continue(prompts, n, seed, sampling)
        return completions.reshape(len(prompts), n, *completions.shape[1:])

    def _continue(self, prompts: Tensor, n: int, seed: int, sampling: SamplingConfig | None) -> Images:
        """Generate n images (N * n, H, W, 3) that begin with each prompt (N, t)."""
        self._require_predictions()
        if n < 1:
            raise IgptError(f"n is {n}; ask for at least one image.")
        tokens = sample_tokens(self.model, prompts, n, seed, sampling or SamplingConfig(), self.batch_size)
        return self.tokenizer.decode(tokens.cpu()).numpy()

    def given_mask(self, given: float) -> NDArray[np.bool_]:
        """Which pixels (H, W) are the share `given` of an image that :meth:`complete` gives to the model."""
        return self.tokenizer.given_mask(self._n_given(given), self.model.config.n_positions).numpy()

    def _n_given(self, given: float) -> int:
        """Tokens in this share of an image, as the tokenizer rounds it."""
        if not 0 <= given <= 1:
            raise IgptError(f"given is {given}; it is the share of an image to give to the model, from 0 to 1.")
        return self.tokenizer.n_given(given, self.model.config.n_positions)

    def fill(
        self,
        images: AnyImages,
        mask: NDArray[np.bool_] | Tensor,
        n: int = 1,
        seed: int = 0,
        sampling: SamplingConfig | None = None,
    ) -> Images:
        """Generate the pixels where `mask` is True, n times for each image, by a masked model: (N, n, H, W, 3).

        `mask` (bool) is (H, W) for all images, or (N, H, W). The other pixels come out in their nearest colors of the
        tokenizer. Filling c of image i is a function of the seed, i, c and what is given, as in :meth:`sample`.

        Raises :class:`IgptError` for an autoregressive model, which only sees what comes before a pixel.
        """
        if self.model.config.causal:
            raise IgptError(
                "This model is autoregressive, so it sees only the pixels before the one that it generates; train one "
                "with objective=mlm objective.max_ratio=1 to fill any mask."
            )
        self._require_predictions()
        if n < 1:
            raise IgptError(f"n is {n}; ask for at least one image.")
        tokens = self.tokenize(images)
        unknown = self.tokenizer.tokens_at(as_mask(mask, len(tokens), self.resolution))
        filled = fill_tokens(self.model, tokens, unknown, n, seed, sampling or SamplingConfig(), self.batch_size)
        pixels = self.tokenizer.decode(filled.cpu()).numpy()
        return pixels.reshape(len(tokens), n, *pixels.shape[1:])

    @torch.inference_mode()
    def predict_fixed_masks(self, images: AnyImages) -> tuple[NDArray[np.bool_], Images]:
        """Predict the masked tokens of each image under the first of its fixed masks, for a masked model.

        Returns the masked pixels (N, H, W) and the images with the most likely tokens in their places. A pixel counts
        as masked if one of its tokens is.
        """
        if not isinstance(self.task, Masked):
            raise IgptError("This model is autoregressive; only a masked model can fill in single pixels.")
        masks, filled = [], []
        for batch in self._batches(images):
            seen = self.task.masking.apply(self.task.masking.fixed(batch), self.model.config.vocab_size)
            guess = self.model(seen.tokens, seen.masked).argmax(dim=-1)
            masks.append(seen.predicted.cpu())
            filled.append(torch.where(seen.predicted, guess, batch.tokens).cpu())
        masked_pixels = self.tokenizer.arrange(torch.cat(masks)).any(dim=-1)
        return masked_pixels.numpy(), self.tokenizer.decode(torch.cat(filled)).numpy()

    # Likelihoods, features, classes

    @torch.inference_mode()
    def nats(self, batch: TokenBatch) -> Tensor:
        """Nats per predicted token of each image (B,); of a masked model, under the first fixed mask of each image."""
        return in_parts_that_fit(
            lambda part: self.task.run(self.model, part, mask_index=0).nats, self._to_device(batch)
        )

    @torch.inference_mode()
    def log_likelihood(self, images: AnyImages) -> NDArray[np.float64]:
        """Log-likelihood of each image (N,), in nats: log p summed over its tokens. For autoregressive models."""
        if not self.task.causal:
            raise IgptError("A masked model assigns no likelihood to an image; train with objective=ar for that.")
        self._require_predictions()
        nats = torch.cat([self.nats(batch).double() for batch in self._batches(images)])
        return (-nats * self.model.config.n_positions).cpu().numpy()

    def features(
        self, images: AnyImages, layer: int | None = None, masks: int = 0, regions: int = 1
    ) -> NDArray[np.float32]:
        """Mean-pooled features (N, C) of one layer, or of all layers and the final norm (N, L + 1, C).

        A masked model sees the whole image. With `masks` > 0, its features are averaged over that many fixed masks.
        With `regions` = g > 1, the means of g x g parts of the image follow each other, row by row: g * g * C features.
        """
        n_layers = self.model.config.n_layer + 1  # with the final norm
        if layer is not None and not -n_layers <= layer < n_layers:
            last = n_layers - 1
            raise IgptError(f"layer is {layer}; this model has layers 0 to {last}, the last of which is the norm.")
        pooled = torch.cat([self.batch_features(batch, masks, regions) for batch in self._batches(images)])
        return (pooled if layer is None else pooled[:, layer]).float().cpu().numpy()

    @torch.inference_mode()
    def batch_features(self, batch: TokenBatch, masks: int = 0, regions: int = 1) -> Tensor:
        """Features (B, L + 1, C) of a batch of tokens, as in :meth:`features`."""
        mask_indices: Sequence[int | None] = range(masks) if masks and not self.task.causal else [None]
        weights = self.region_weights(regions)

        def average(part: TokenBatch) -> Tensor:
            each = [self.task.features(self.model, part, index, weights) for index in mask_indices]
            return torch.stack(each).mean(dim=0)

        return in_parts_that_fit(average, self._to_device(batch))

    def region_weights(self, regions: int) -> Tensor | None:
        """What :meth:`features` averages with, (regions * regions, T); None for the mean over the whole image."""
        if regions == 1:
            return None
        return self.tokenizer.region_weights(regions, self.model.config.n_positions).to(self.device)

    @torch.inference_mode()
    def predict(self, batch: TokenBatch) -> Tensor:
        """Predicted class of each image of a batch (B,). For fine-tuned models."""
        if self.class_head is None:
            raise IgptError(
                "This model was not fine-tuned to classify; train one with objective=classify init_from=RUN."
            )
        head = self.class_head
        return in_parts_that_fit(
            lambda part: predict_classes(self.model, head, self.task, part, self.votes).classes, self._to_device(batch)
        )

    def classify(self, images: AnyImages) -> list[str]:
        """Name of the predicted class of each image. For fine-tuned models."""
        return [self.classes[i] for batch in self._batches(images) for i in self.predict(batch).tolist()]

    def tokenize(self, images: AnyImages) -> Tensor:
        """Tokens (N, T) of images."""
        return self.tokenizer.encode(torch.from_numpy(np.array(as_images(images, self.resolution))))

    def _batches(self, images: AnyImages) -> Iterator[TokenBatch]:
        tokens = self.tokenize(images)
        for indices in track(torch.arange(len(tokens)).split(self.batch_size), "Running the model"):
            nothing = torch.zeros_like(indices)
            yield self._to_device(TokenBatch(tokens[indices], labels=nothing, indices=indices, epochs=nothing))

    def _to_device(self, batch: TokenBatch) -> TokenBatch:
        return TokenBatch(*(part.to(self.device) for part in batch))
