"""Features as functions of a batch of images: of every layer of a network, and of simple baselines; and storing them.

Shapes: L layers (a network's blocks and its final norm; 1 for a baseline), B images, T positions, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from torch import Tensor

from igpt.batch import ImageBatch
from igpt.data.datamodule import ImageDataModule
from igpt.files import atomic_path
from igpt.model.transformer import Transformer
from igpt.pretrained import Pretrained

Features = NDArray[np.float32]  # (L, N, C) of a whole split; mapped from a file


@dataclass(frozen=True)
class FeatureKind:
    """Features of one kind: `pooled` gives them for a batch, float32 (L, B, C); `shape` is (L, C).

    `sequences` gives, layer by layer, what a network's features are the mean of, (B, T, C / R); None for a baseline. It
    takes at most `at_once` images. With `regions` (R, T) the features are R weighted means; with None R is 1.
    """

    name: str
    shape: tuple[int, int]
    pooled: Callable[[ImageBatch], Tensor]
    sequences: Callable[[ImageBatch], Iterator[Tensor]] | None = None
    at_once: int = 64
    regions: Tensor | None = None

    @property
    def key(self) -> dict[str, Any]:
        """What the features depend on, apart from the network and the data."""
        return {"kind": self.name, "shape": self.shape}


def network_features(
    name: str,
    pretrained: Pretrained,
    data: ImageDataModule,
    masks: int = 0,
    regions: int = 1,
    bfloat16: bool = False,
) -> FeatureKind:
    """The features of every layer and of the final norm, from one pass.

    `masks` and `regions` are those of :meth:`Pretrained.features`. With `bfloat16`, the network computes as in training
    with trainer.precision=bf16-mixed.
    """

    def arithmetic() -> torch.autocast:
        return torch.autocast(pretrained.device.type, torch.bfloat16, enabled=bfloat16)

    def pooled(batch: ImageBatch) -> Tensor:
        tokens = data.tokenize(batch)
        with arithmetic():
            return pretrained.batch_features(tokens, masks, regions).transpose(0, 1).float()

    def sequences(batch: ImageBatch) -> Iterator[Tensor]:
        layers = pretrained.model.layer_inputs(data.tokenize(batch).tokens.to(pretrained.device))
        while True:
            with arithmetic():  # between two layers, the caller computes as usual
                layer = next(layers, None)
            if layer is None:
                return
            yield layer.float()

    network, weights = pretrained.model.config, pretrained.region_weights(regions)
    if regions > 1:
        name += f" {regions}x{regions} regions"
    shape = (network.n_layer + 1, regions**2 * network.n_embd)
    return FeatureKind(name, shape, pooled, sequences, pretrained.batch_size, weights)


def untrained(pretrained: Pretrained, seed: int = 0) -> Pretrained:
    """The same network with initial weights, and with the same tokenizer and task."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Transformer(pretrained.model.config, pretrained.model.coordinates)
    return Pretrained(model, pretrained.tokenizer, pretrained.task, pretrained.batch_size).to(pretrained.device)


def raw_pixels(data: ImageDataModule) -> FeatureKind:
    """The pixel values in [0, 1], (1, B, H * W * 3); (1, B, H * W) if all images of the data are gray."""
    channels = 1 if all(images.are_gray() for images in data.splits.values()) else 3

    def pooled(batch: ImageBatch) -> Tensor:
        return batch.images[..., :channels].flatten(1)[None].float() / 255

    return FeatureKind("raw pixels", (1, channels * data.source.resolution**2), pooled)


def palette_histogram(data: ImageDataModule) -> FeatureKind:
    """The fraction of each image that has each color, (1, B, V)."""

    def pooled(batch: ImageBatch) -> Tensor:
        tokens = data.tokenize(batch).tokens  # (B, T)
        counts = torch.zeros(len(tokens), data.tokenizer.vocab_size, device=tokens.device)
        return counts.scatter_add_(1, tokens, torch.ones_like(tokens, dtype=counts.dtype))[None] / tokens.shape[1]

    return FeatureKind("palette histogram", (1, data.tokenizer.vocab_size), pooled)


def concatenated(kind: FeatureKind, layers: range) -> FeatureKind:
    """The features of several layers, one after another in one vector: (1, B, len(layers) * C).

    Source: Chen et al. 2020, table 2, where five layers around the best one improve the probe of the XL model.
    """

    def pooled(batch: ImageBatch) -> Tensor:
        return torch.cat(list(kind.pooled(batch)[layers.start : layers.stop]), dim=-1)[None]

    return FeatureKind(concatenated_name(kind.name, layers), (1, len(layers) * kind.shape[1]), pooled)


def concatenated_name(name: str, layers: range) -> str:
    """The name of concatenated features, as in "trained layers 3-7"."""
    return f"{name} layers {layers[0]}-{layers[-1]}"


def layers_around(layer: int, n: int, n_layers: int) -> range:
    """The `n` layers around one of them, or around the nearest one that has as many on both sides."""
    first = min(max(layer - n // 2, 0), n_layers - n)
    return range(first, first + n)


def stored_features(kind: FeatureKind, data: ImageDataModule, split: str, path: Path) -> Features:
    """The features of the labeled images of a split, mapped from the file `path`, which is written if it is missing.

    They are computed and written batch by batch, and the file is complete or absent.
    """
    if not path.exists():
        with atomic_path(path) as temporary:
            _write(kind, data, split, temporary)
    features: Features = np.load(path, mmap_mode="r", allow_pickle=False)
    return features


def _write(kind: FeatureKind, data: ImageDataModule, split: str, path: Path) -> None:
    file, done = None, 0
    for batch in data.labeled_images(split, activity=f"Features ({kind.name}) of"):
        features = kind.pooled(batch).cpu().numpy()  # (L, B, C)
        n_layers, n_images, width = features.shape
        if file is None:
            shape = (n_layers, data.n_labeled(split), width)
            file = open_memmap(path, mode="w+", dtype=np.float32, shape=shape)  # type: ignore[no-untyped-call]
        file[:, done : done + n_images] = features
        done += n_images
    assert file is not None  # igpt-probe refuses splits without labels
    file.flush()
