"""Transformations of training images that the model is told about (Jun et al. 2020, "Distribution Augmentation").

An augmentation of which the model is not told changes the distribution that it learns. Here the model learns the
distribution of images under each transformation, with shared weights, and is evaluated and sampled without any.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from igpt.counter_rng import of_samples
from igpt.errors import IgptError

STREAM = 61  # of the random numbers of the first kind; each kind has its own

# Each kind gives the views of an image (R, R, 3) that it chooses from, all equally likely. The first is the image.


def rotation(image: Tensor) -> list[Tensor]:
    """By 0, 90, 180 and 270 degrees."""
    return [image.rot90(n) for n in range(4)]


def transposition(image: Tensor) -> list[Tensor]:
    """Rows and columns as they are, and exchanged. Together with rotations: all 8 symmetries of the square."""
    return [image, image.transpose(0, 1)]


def flip(image: Tensor) -> list[Tensor]:
    """The image and its mirror image."""
    return [image, image.flip(1)]


def colors(image: Tensor) -> list[Tensor]:
    """The 6 permutations of red, green and blue."""
    return [image[:, :, list(channels)] for channels in itertools.permutations(range(3))]


def jigsaw(image: Tensor) -> list[Tensor]:
    """The 24 permutations of the four quarters."""
    half, rest = divmod(len(image), 2)
    if rest:
        raise IgptError(
            f"objective.transforms has jigsaw, but images of {len(image)}x{len(image)} cannot be divided into "
            "quarters; leave it out."
        )
    quarters = [part for rows in image.split(half, 0) for part in rows.split(half, 1)]
    return [
        torch.cat([torch.cat([quarters[a], quarters[b]], 1), torch.cat([quarters[c], quarters[d]], 1)])
        for a, b, c, d in itertools.permutations(range(4))
    ]


KINDS: dict[str, Callable[[Tensor], list[Tensor]]] = {
    each.__name__: each for each in (rotation, transposition, flip, colors, jigsaw)
}


@dataclass(frozen=True)
class Transformations:
    """One view of each of the `kinds`, chosen independently for each image, in the order of :data:`KINDS`.

    What an image gets is a pure function of (seed, epoch, index of the image). So the data module that transforms the
    images and the task that tells the model agree without passing it along.
    """

    kinds: Sequence[str]
    seed: int = 0

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in KINDS:
                raise IgptError(f"objective.transforms has '{kind}'; choose from {', '.join(KINDS)}.")
        object.__setattr__(self, "kinds", tuple(kind for kind in KINDS if kind in self.kinds))

    def choices(self, epochs: Tensor, indices: Tensor) -> dict[str, Tensor]:
        """The number of the view of each kind, (B,) int64; 0 is the image itself."""
        return {kind: self._choice(kind, epochs, indices) for kind in self.kinds}

    def _choice(self, kind: str, epochs: Tensor, indices: Tensor) -> Tensor:
        stream = STREAM + list(KINDS).index(kind)
        return (of_samples(self.seed, stream, epochs, indices) * n_views(kind)).long()

    def __call__(self, images: Tensor, epochs: Tensor, indices: Tensor) -> Tensor:
        """Views of images (B, R, R, 3) uint8."""
        for kind, chosen in self.choices(epochs, indices).items():
            sources = pixel_sources(kind, images.shape[1], images.device)[chosen]  # (B, R * R * 3)
            images = images.flatten(1).gather(1, sources).view_as(images)
        return images


@functools.cache
def pixel_sources(kind: str, side: int, device: torch.device) -> Tensor:
    """For each view of a kind, and each value of an image of this side, the index of the value that comes there:
    (views, side * side * 3) int64.
    """
    values = torch.arange(side * side * 3, device=device).view(side, side, 3)
    return torch.stack([view.flatten() for view in KINDS[kind](values)])


def n_views(kind: str) -> int:
    """The number of views that a kind chooses from."""
    return len(KINDS[kind](torch.empty(2, 2, 3)))


class TransformationEmbedding(nn.Module):
    """Tells a model which transformations its images underwent: the sum of one learned embedding for each kind.

    That of the image itself is zero and stays so. A model that is told nothing therefore sees untransformed images, and
    sampling, features and exported weights need nothing of this module.
    """

    def __init__(self, kinds: Sequence[str], width: int) -> None:
        super().__init__()
        embeddings = {kind: nn.Embedding(n_views(kind), width, padding_idx=0) for kind in kinds}
        self.kinds = nn.ModuleDict(embeddings)
        for embedding in embeddings.values():
            nn.init.zeros_(embedding.weight)

    def forward(self, choices: dict[str, Tensor]) -> Tensor:
        """What is added to the input at every position, (B, 1, C), for choices (B,) of each kind."""
        return sum(embedding(choices[kind]) for kind, embedding in self.kinds.items())[:, None]
