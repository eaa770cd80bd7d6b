"""Features of whole splits: of every layer of the model, and of simple baselines; cached in the run directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from igpt.data.datamodule import ImageDataModule
from igpt.data.packed import cache_key
from igpt.files import atomic_path
from igpt.model.transformer import Transformer
from igpt.pretrained import Pretrained

Features = NDArray[np.float32]  # (layers, N, C)


def split_features(pretrained: Pretrained, data: ImageDataModule, split: str, masks: int = 0) -> Features:
    """Pooled features of every layer and of the final norm of a whole split, (L + 1, N, C), from one pass."""
    batches = data.token_batches(split, activity="Features of")
    parts = [pretrained.batch_features(batch, masks).float().cpu() for batch in batches]
    return torch.cat(parts).transpose(0, 1).contiguous().numpy()


def untrained(pretrained: Pretrained, seed: int = 0) -> Pretrained:
    """The same network with initial weights, and with the same tokenizer and task."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Transformer(pretrained.model.config)
    return Pretrained(model, pretrained.tokenizer, pretrained.task, pretrained.batch_size).to(pretrained.device)


def raw_pixels(data: ImageDataModule, split: str) -> Features:
    """The pixel values as features in [0, 1], (1, N, H * W * 3)."""
    images = data.splits[split].images
    return images.reshape(1, len(images), -1).astype(np.float32) / np.float32(255)


def palette_histogram(data: ImageDataModule, split: str) -> Features:
    """The fraction of each image that has each color, (1, N, V)."""

    def count(tokens: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(tokens, data.tokenizer.vocab_size).float().mean(dim=1)

    return torch.cat([count(batch.tokens) for batch in data.token_batches(split)])[None].numpy()


def cached(folder: Path, key: dict[str, Any], compute: Callable[[], Features]) -> Features:
    """The result of `compute()`, or the stored result of an earlier call with the same key."""
    path = folder / f"{cache_key(key)}.npy"
    if path.exists():
        stored: Features = np.load(path, allow_pickle=False)
        return stored
    features = compute()
    with atomic_path(path) as temporary:
        np.save(temporary, features)
    return features
