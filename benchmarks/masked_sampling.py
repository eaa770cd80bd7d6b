"""Speed against quality of drawing with a masked model: from few passes to many, beside an autoregressive model.

igpt-train experiment=emoji_maskgit hydra.run.dir=outputs/emoji_maskgit/demo
igpt-train experiment=emoji_ar hydra.run.dir=outputs/emoji_ar/demo
python benchmarks/masked_sampling.py

Quality is what the autoregressive model, as a judge, makes of the pictures: the nats per token it gives to them, and
the Fréchet distance of its features to those of the training images (Heusel et al. 2017, with these features instead of
an Inception network's). It judges its own pictures, too, for which its nats are no fair measure. Real test images, as
many as are drawn, show what can be reached.
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
from igpt.commands.open_run import data_of_run
from igpt.pretrained import Images, Pretrained


def moments(features: np.ndarray) -> tuple[Tensor, Tensor]:
    """Mean (C,) and covariance (C, C) of features (N, C), in float64."""
    rows = torch.from_numpy(features).double()
    return rows.mean(dim=0), torch.cov(rows.T)


def frechet_distance(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> float:
    """Of two normal distributions: |m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^1/2)."""
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

    def row(what: str, draw: Callable[[], Images]) -> Row:
        start = time.perf_counter()
        pictures = draw()
        seconds = time.perf_counter() - start
        nats = -judge.log_likelihood(pictures).mean() / judge.model.config.n_positions
        distance = frechet_distance(moments(judge.features(pictures, layer)), reference)
        return {
            "pictures": what,
            "seconds": round(seconds, 1),
            "pictures a second": round(len(pictures) / seconds, 1),
            "nats per token, by the judge": round(nats, 3),
            "Fréchet distance": round(distance, 3),
        }

    def by_masked(passes: int, temperature: float) -> Callable[[], Images]:
        return lambda: masked.sample(len(test), passes=passes, choice_temperature=temperature)

    warm_up(masked, judge)
    rows = [
        row(f"masked model, {passes} passes, choice temperature {temperature:g}", by_masked(passes, temperature))
        for temperature in arguments.choice_temperatures
        for passes in arguments.passes
    ]
    rows.append(row(f"the judge itself, {judge.model.config.n_positions} steps", lambda: judge.sample(len(test))))
    real = {**row("test images", lambda: np.asarray(test)), "seconds": None, "pictures a second": None}
    write_table(
        arguments.name,
        "Drawing with a masked model: speed against quality",
        [*rows, real],
        f"{len(test)} pictures of {judge.resolution}x{judge.resolution}, temperature 1; {judge.device.type}, "
        f"{torch.get_num_threads()} CPU threads. {Path(arguments.masked)} and {Path(arguments.autoregressive)}, "
        f"{judge.model.config.n_layer} layers of width {judge.model.config.n_embd} each. Features: layer {layer} of "
        f"the judge, against those of {len(train):,} training images.",
    )


def warm_up(*models: Pretrained) -> None:
    """The first picture of a model takes longer."""
    for model in models:
        model.sample(1)


if __name__ == "__main__":
    main()
