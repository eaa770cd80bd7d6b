"""Probes of features that are never stored: SGD trains them on batches as they are computed, for data of any size.

Source: Chen et al. 2020, "Generative Pretraining from Pixels", appendix: the probes of ImageNet are trained by SGD with
momentum 0.9, learning rates from 30 downwards, and a cosine schedule.

Shapes: L layers, B images, C channels, K classes, R learning rates, N labeled images of a split.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn

from igpt.batch import ImageBatch
from igpt.cluster.agreement import DelayedMaximum
from igpt.cluster.signals import Interrupted, stop_signals
from igpt.data.datamodule import ImageDataModule
from igpt.data.stream import Share
from igpt.errors import IgptError
from igpt.evaluation.features import FeatureKind
from igpt.evaluation.probe_heads import AttentiveHeads, LinearHeads
from igpt.evaluation.probe_scores import ProbeSettings
from igpt.files import atomic_path
from igpt.progress import Progress, track

log = logging.getLogger(__name__)

STATISTICS_IMAGES = 10_000  # mean and deviation are those of so many training images, or of one epoch if that has fewer
ATTENTIVE = ", attentive"  # follows the name of a kind of features in the name of its attention pooling


@dataclass(frozen=True)
class Processes:
    """The processes that share each batch, and the device of this one."""

    fabric: Fabric
    device: torch.device

    def sum(self, value: Tensor) -> Tensor:
        """The sum of a tensor over all processes, on its own device."""
        if self.fabric.world_size == 1:
            return value
        total: Tensor = self.fabric.all_reduce(value.to(self.device), reduce_op="sum")  # type: ignore[assignment]
        return total.to(value.device)


class StreamProbe:
    """Linear classifiers on several kinds of features; with `n_heads`, attention pooling too for those of networks.

    The state is saved in the file `path`. If that has a state of the same `key`, training continues from there, bitwise
    as without the interruption. A state of another key is replaced.
    """

    def __init__(
        self,
        kinds: Sequence[FeatureKind],
        data: ImageDataModule,
        settings: ProbeSettings,
        processes: Processes,
        path: Path,
        key: str,
        n_heads: int | None = None,
    ) -> None:
        rank, world_size = processes.fabric.global_rank, processes.fabric.world_size
        if settings.batch_size % world_size:
            raise IgptError(
                f"probe.batch_size={settings.batch_size} cannot be divided evenly among {world_size} processes; choose "
                f"a multiple of {world_size}."
            )
        self.kinds, self.data, self.settings, self.processes = kinds, data, settings, processes
        self.path, self.key = path, key
        self.share = Share(settings.batch_size, rank, world_size)
        self.steps = math.ceil(settings.epochs * data.n_labeled("train") / settings.batch_size)
        self.step = 0
        state = self._saved_state()
        self.statistics = state["statistics"] if state else self._measure_statistics()
        self._make_heads(n_heads)
        if state:
            self.step = state["step"]
            self.heads.load_state_dict(state["heads"])
            self.adam.load_state_dict(state["adam"])

    def _make_heads(self, n_heads: int | None) -> None:
        """Heads by the names of their kind of features, and the optimizer of attention pooling."""
        n_classes, device = len(self.data.source.classes), self.processes.device
        rates = torch.tensor(self.settings.learning_rates, dtype=torch.float32)
        self.linear, self.attentive = nn.ModuleDict(), nn.ModuleDict()
        for kind in self.kinds:
            mean, deviation = self.statistics[kind.name]
            self.linear[kind.name] = LinearHeads(mean, deviation, rates, n_classes)
            if n_heads and kind.sequences:
                width = mean.shape[1] // (1 if kind.regions is None else len(kind.regions))
                self.attentive[kind.name] = AttentiveHeads(len(mean), width, n_heads, n_classes, self.data.seed)
        self.heads = nn.ModuleList([self.linear, self.attentive]).to(device)
        self.adam = torch.optim.Adam([{"params": list(self.attentive.parameters())}], lr=self.settings.attentive_rate)

    # Training

    @torch.no_grad()
    def fit(self) -> None:
        """Train all classifiers for the remaining steps.

        If a signal asks to stop, the state is saved after the step, and all processes raise :class:`Interrupted`.
        """
        stop_signals.defer()
        self._train()
        stop_signals.obey()

    def _train(self) -> None:
        accuracies: dict[str, Tensor] = {}  # (L, R) of each kind: a moving average over about 50 batches

        def best_accuracy() -> str:
            best = (f"{name} {100 * float(accuracy.max()):.1f}%" for name, accuracy in accuracies.items())
            return f"accuracy in training so far: {', '.join(best)}"

        requested = DelayedMaximum()
        requested.start()
        batches = islice(self._batches(self.step), self.steps - self.step)
        with Progress("Training probes", self.steps, self.step, best_accuracy) as progress:
            for batch in batches:
                for name, accuracy in self._train_step(batch).items():
                    accuracies[name] = accuracies.get(name, accuracy).lerp(accuracy, 0.02)
                self.step += 1
                progress.update(self.step)
                stops = requested.submit(int(stop_signals.requested))
                if stops or self.step % self.settings.save_every == 0 or self.step == self.steps:
                    self._save()
                if stops:
                    if self.share.rank == 0:
                        log.info("Saved at step %d of %d; the same command continues from it.", self.step, self.steps)
                    raise Interrupted
        if requested.finish():  # all processes leave together, also after the last step
            raise Interrupted

    def _train_step(self, batch: ImageBatch) -> dict[str, Tensor]:
        """One step of all classifiers; the shares of this process's images that each classifies correctly (L, R)."""
        decay = (1 + math.cos(math.pi * self.step / self.steps)) / 2
        accuracies = {}
        for kind in self.kinds:
            features, _ = self._features(kind, batch, batch.labels)
            heads = self._linear(kind)
            gradient, accuracies[kind.name] = heads.gradient(features, batch.labels)
            heads.step(self._mean(gradient), decay)
        for parameter in self.attentive.parameters():
            assert parameter.grad is not None
            parameter.grad = self._mean(parameter.grad)
        self.adam.param_groups[0]["lr"] = self.settings.attentive_rate * decay
        self.adam.step()
        self.adam.zero_grad()
        return accuracies

    def _features(
        self, kind: FeatureKind, batch: ImageBatch, labels: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Features (L, B, C), and the classes (L, B) that attention pooling predicts; with `labels`, also gradients."""
        if kind.name not in self.attentive:
            return kind.pooled(batch), None
        assert kind.sequences is not None
        heads, parts = self.attentive[kind.name], _parts(batch, kind.at_once)
        results = [heads(kind.sequences(part), None if labels is None else part.labels, kind.regions) for part in parts]
        features, classes = (torch.cat(values, dim=1) for values in zip(*results, strict=True))
        return features, classes

    def _linear(self, kind: FeatureKind) -> LinearHeads:
        heads = self.linear[kind.name]
        assert isinstance(heads, LinearHeads)
        return heads

    def _mean(self, gradient: Tensor) -> Tensor:
        """The mean over the batch of a gradient that was summed over the images of this process."""
        return self.processes.sum(gradient) / self.settings.batch_size

    def _batches(self, start: int) -> Iterator[ImageBatch]:
        """The part of this process in each batch from step `start` on."""
        return self.data.labeled_stream(self.share, start, self.settings.augment, self.processes.device)

    @torch.no_grad()
    def _measure_statistics(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Mean and deviation, (L, C) each, of each kind of features; 0 and 1 where features are not standardized.

        They are those of the first batches of training.
        """
        images = min(STATISTICS_IMAGES, self.data.n_labeled("train")) if self.settings.standardize else 1
        n_batches = math.ceil(images / self.settings.batch_size)
        moments: dict[str, Tensor] = {}
        for batch in track(islice(self._batches(0), n_batches), "Mean and deviation of features", n_batches):
            for kind in self.kinds:
                x = kind.pooled(batch).cpu().double()
                sums = torch.stack([x.sum(dim=1), x.square().sum(dim=1)])  # (2, L, C)
                moments[kind.name] = moments.get(kind.name, 0) + sums
        n = n_batches * self.settings.batch_size  # in all processes together
        return {name: self._standardization(sums, n) for name, sums in moments.items()}

    def _standardization(self, sums: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """Mean and deviation (L, C) from this process's sums of features and of their squares (2, L, C)."""
        mean, square = self.processes.sum(sums) / n
        if not self.settings.standardize:
            return torch.zeros_like(mean).float(), torch.ones_like(mean).float()
        deviation = (square - mean.square()).clamp(min=0).sqrt()
        # Rounding may give a constant channel a tiny deviation, and dividing by that would amplify noise.
        constant = deviation <= 1e-6 * square.sqrt()
        return mean.float(), deviation.masked_fill(constant, 1).float()

    # Evaluation

    @torch.no_grad()
    def correct(self, split: str) -> dict[str, NDArray[np.bool_]]:
        """Which labeled images of a split each kind's classifiers classify correctly, (L, R, N).

        Attention pooling, with one candidate instead of R, has the name of its kind and ATTENTIVE.
        """
        rank, world_size = self.share.rank, self.share.world_size
        n = self.data.n_labeled(split)
        found = {name: torch.zeros(*shape, n, dtype=torch.uint8) for name, shape in self._candidates()}
        done = 0
        for batch in self.data.labeled_images(split, rank, world_size, "Probes classify"):
            if not len(batch.labels):
                continue  # this process has no more images
            here: ImageBatch = self.data.transfer_batch_to_device(batch, self.processes.device, 0)
            positions = rank + world_size * torch.arange(done, done + len(batch.labels))
            done += len(batch.labels)
            for name, classes in self._classes(here):
                found[name][..., positions] = (classes == here.labels).cpu().byte()
        return {name: self.processes.sum(hits).bool().numpy() for name, hits in found.items()}

    def _candidates(self) -> Iterator[tuple[str, tuple[int, int]]]:
        """The number of layers and of candidates of each kind of classifiers, by its name."""
        for kind in self.kinds:
            n_layers = len(self._linear(kind).weight)
            yield kind.name, (n_layers, len(self.settings.learning_rates))
            if kind.name in self.attentive:
                yield kind.name + ATTENTIVE, (n_layers, 1)

    def _classes(self, batch: ImageBatch) -> Iterator[tuple[str, Tensor]]:
        """The classes (L, R, B) that the classifiers of each kind predict, by their names."""
        for kind in self.kinds:
            features, attentive = self._features(kind, batch)
            yield kind.name, self._linear(kind).predict(features)
            if attentive is not None:
                yield kind.name + ATTENTIVE, attentive[:, None]

    # The state

    def _save(self) -> None:
        """Write the state; the file at `path` is always complete."""
        if self.share.rank > 0:
            return
        state = {
            "key": self.key, "step": self.step, "statistics": self.statistics, "heads": self.heads.state_dict(),
            "adam": self.adam.state_dict(),
        }  # fmt: skip
        with atomic_path(self.path) as temporary, open(temporary, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())

    def _saved_state(self) -> dict[str, Any] | None:
        """The state in the file, if there is one of the same key."""
        if not self.path.exists():
            return None
        state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
        if state["key"] == self.key:
            log.info("Continuing from step %d of %d in %s", state["step"], self.steps, self.path)
            return state
        log.info("%s has probes of other settings, which are replaced", self.path)
        return None


def _parts(batch: ImageBatch, at_once: int) -> Iterator[ImageBatch]:
    """The batch, without crops, in parts of at most so many images."""
    for first in range(0, len(batch.images), at_once):
        images, labels, indices, epochs = (values[first : first + at_once] for values in batch[:4])
        yield ImageBatch(images, labels, indices, epochs)
