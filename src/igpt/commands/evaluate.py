"""igpt-evaluate: the likelihood of a trained model on a split."""

from __future__ import annotations

import json

from omegaconf import DictConfig

from igpt.commands.app import run_app
from igpt.errors import IgptError


def main() -> None:
    """The console script."""
    run_app(evaluate, "evaluate")


def evaluate(config: DictConfig) -> None:
    """Print the likelihood, and write it into the run directory's evaluation/."""
    from igpt.commands.runs import data_of_run
    from igpt.data.sources import SPLITS
    from igpt.evaluation.likelihood import split_likelihood
    from igpt.files import atomic_path
    from igpt.pretrained import load
    from igpt.run import find_run
    from igpt.training.report import likelihood_values

    if config.split not in SPLITS:
        raise IgptError(f"split is '{config.split}'; choose one of {', '.join(SPLITS)}.")
    pretrained = load(config.run, config.device, config.checkpoint)
    data = data_of_run(config.run, pretrained)
    values = likelihood_values(split_likelihood(pretrained, data, config.split), pretrained, config.split)
    for name, value in values.items():
        print(f"{name:28} {value:.4f}" if isinstance(value, float) else f"{name:28} {value}")
    path = find_run(config.run).path / "evaluation" / f"{config.split}.json"
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n")
    print(f"Results are in {path}")
