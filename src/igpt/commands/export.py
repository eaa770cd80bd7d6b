"""igpt-export: write a trained model to a folder for transformers, for igpt elsewhere, or for the Hugging Face Hub."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from igpt.configuration.app import run_app
from igpt.errors import IgptError

if TYPE_CHECKING:
    from igpt.convert.stored_model import StoredModel
    from igpt.run_directory import RunDirectory


def main() -> None:
    """The console script."""
    run_app(export, "export")


def export(config: DictConfig) -> None:
    """Write the model and its card to a folder; upload that if `push_to` says where."""
    import torch

    from igpt.convert import hub_models, wandb_models
    from igpt.convert.model_card import model_card
    from igpt.convert.read_model import read_model
    from igpt.convert.stored_model import rounded
    from igpt.convert.write_folder import write_folder
    from igpt.files import expand_user
    from igpt.run_directory import find_run, is_wandb_name, run_of
    from igpt.training.loggers.wandb_artifacts import artifact_of

    run = find_run(config.run)
    stored = read_model(config.run, config.checkpoint, config.weights)
    origin = run_of(stored.path) if stored.path.suffix == ".ckpt" else run  # of a W&B artifact, the copy in the cache
    if stored.path.is_file():
        stored = replace(stored, results=results_of(origin, stored))
    if config.dtype is not None:
        stored = rounded(stored, getattr(torch, config.dtype))
    if config.evaluate:
        stored = replace(stored, results=measure(config, stored))
    output = run.path / "export" if config.output is None else expand_user(config.output)
    to_wandb = config.push_to is not None and is_wandb_name(config.push_to)
    name = output.resolve().name if config.push_to is None or to_wandb else config.push_to
    card = model_card(stored, name, config.format, training_command(origin), config.license)
    write_folder(stored, output, config.format, card)
    print(f"The model is in {output}; before you publish it, complete README.md and read the command in it.")
    if to_wandb:
        print(f"Uploaded as {wandb_models.upload(output, config.push_to, artifact_of(config.run))}")
    elif config.push_to is not None:
        print(f"Uploaded to {hub_models.upload(output, config.push_to)}")


def results_of(run: RunDirectory, stored: StoredModel) -> dict[str, Any]:
    """The values of summary.json, if they are those of these weights; otherwise none."""
    from igpt.stored_run import StoredRun

    summary = dict(StoredRun(run).summary)  # empty if the run is being extended: it may have another best checkpoint
    measured = Path(run.path, summary.get("best_checkpoint", ""))
    same = measured.is_file() and measured.samefile(stored.path) and summary.get("weights", "trained") == stored.chosen
    return summary if same else {}


def measure(config: DictConfig, stored: StoredModel) -> dict[str, Any]:
    """What the evaluators measure with these weights on the test split of the run's data.

    Raises :class:`IgptError` if the model brings no data.
    """
    from igpt.commands.build_trainer import build_evaluators
    from igpt.commands.open_run import data_of_run
    from igpt.evaluation.evaluator import evaluate
    from igpt.pretrained import from_stored
    from igpt.registry import is_model_name

    if stored.path.suffix != ".ckpt" and not is_model_name(config.run):
        raise IgptError(f"evaluate is true, but {config.run} brings no data to measure on; leave it out.")
    pretrained = from_stored(stored)
    return evaluate(build_evaluators(config), pretrained, data_of_run(config.run, pretrained), "test").values


def training_command(run: RunDirectory) -> str | None:
    """The command that began a run; None if that is not known."""
    from igpt.stored_run import StoredRun

    arguments = StoredRun(run).arguments
    return None if arguments is None else shlex.join(["igpt-train", *arguments])


if __name__ == "__main__":
    main()
