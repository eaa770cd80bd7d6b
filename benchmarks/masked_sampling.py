"""Speed and quality of sampling from a masked model with few to many passes, compared with an autoregressive model.

igpt-train experiment=emoji_maskgit hydra.run.dir=outputs/emoji_maskgit/demo
igpt-train experiment=emoji_ar hydra.run.dir=outputs/emoji_ar/demo
python benchmarks/masked_sampling.py

The autoregressive model is the judge of quality: by the nats per token that it assigns to the images, and by the
Fréchet distance of its features to those of the training images (Heusel et al. 2017, there with features of an
Inception network). It also judges its own images, for which the nats are biased. As many test images show what is
possible.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from table import Row, write_table
from torch import Tensor

import igpt
from igpt import SamplingConfig
from igpt.commands.open_run import data_of_run
from igpt.pretrained import Images, Pretrained


def moments(features: np.ndarray) -> tuple[Tensor, Tensor]:
    """Mean (C,) and covariance (C, C) of features (N, C), in float64."""
    rows = torch.from_numpy(features).double()
    return rows.mean(dim=0), torch.cov(rows.T)


def frechet_distance(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> float:
    """The distance of two normal distributions: |m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^1/2)."""
    (mean_a, cov_a), (mean_b, cov_b) = a, b
    root = torch.linalg.eigvals(cov_a @ cov_b).real.clamp(min=0).sqrt().sum()
    return float((mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * root)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--masked", default="outputs/emoji_maskgit/demo", help="run of a masked model")
    parser.add_argument("--autoregressive", default="outputs/emoji_ar/demo", help="run of the judge")
    parser.add_argument("--passes", type=int, nargs="+", default=[4, 8, 16, 32])
    parser.add_argument("--choice-temperatures", type=float, nargs="+", default=[4.5, 20])
    parser.add_argument("--name", default="masked_sampling", help="of the files below benchmarks/results")
    arguments = parser.parse_args()
    masked, judge = (igpt.load(run) for run in (arguments.masked, arguments.autoregressive))
    if masked.tokenizer.fingerprint != judge.tokenizer.fingerprint:
        parser.error("the two runs have different palettes; train them on the same data with the same tokenizer")
    data = data_of_run(arguments.autoregressive, judge)
    train, test = (data.splits[name].images for name in ("train", "test"))
    layer = judge.model.config.n_layer // 2
    reference = moments(judge.features(train, layer))

    def row(name: str, generate: Callable[[], Images]) -> Row:
        start = time.perf_counter()
        images = generate()
        seconds = time.perf_counter() - start
        nats = -judge.log_likelihood(images).mean() / judge.model.config.n_positions
        distance = frechet_distance(moments(judge.features(images, layer)), reference)
        return {
            "images": name,
            "seconds": round(seconds, 1),
            "images per second": round(len(images) / seconds, 1),
            "nats per token by the judge": round(nats, 3),
            "Fréchet distance": round(distance, 3),
        }

    def by_masked(passes: int, temperature: float) -> Callable[[], Images]:
        sampling = SamplingConfig(passes=passes, choice_temperature=temperature)
        return lambda: masked.sample(len(test), sampling=sampling)

    warm_up(masked, judge)
    rows = [
        row(f"masked model, {passes} passes, choice temperature {temperature:g}", by_masked(passes, temperature))
        for temperature in arguments.choice_temperatures
        for passes in arguments.passes
    ]
    rows.append(row(f"judge, {judge.model.config.n_positions} steps", lambda: judge.sample(len(test))))
    real = {**row("test images", lambda: np.asarray(test)), "seconds": None, "images per second": None}
    write_table(
        arguments.name,
        "Sampling from a masked model: speed and quality",
        [*rows, real],
        f"{len(test)} images of {judge.resolution}x{judge.resolution}, temperature 1; {judge.device.type}, "
        f"{torch.get_num_threads()} CPU threads. {Path(arguments.masked)} and {Path(arguments.autoregressive)}, "
        f"{judge.model.config.n_layer} layers of width {judge.model.config.n_embd} each. Features: layer {layer} of "
        f"the judge; reference: {len(train):,} training images.",
    )


def warm_up(*models: Pretrained) -> None:
    """Generate one image by each model, since the first one takes longer."""
    for model in models:
        model.sample(1)


if __name__ == "__main__":
    main()
