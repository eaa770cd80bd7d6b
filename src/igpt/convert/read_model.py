"""From what a user names to the model in it, whatever the format."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from igpt.checkpoint import read_checkpoint
from igpt.convert import hub_models, hugging_face, igpt_folder, named_models, openai_release, wandb_models
from igpt.convert.stored_model import StoredModel
from igpt.convert.weight_files import weight_files
from igpt.errors import IgptError
from igpt.files import expand_user
from igpt.objectives.tasks import task_from_state, task_state
from igpt.registry import is_model_name
from igpt.run_directory import find_checkpoint, is_hub_name, is_wandb_name


def read_model(run: str | Path, prefer: str = "best", weights: str | None = None) -> StoredModel:
    """The model that `run` names: a run directory (its `best` or `last` checkpoint), a checkpoint file, an exported
    folder of igpt or of transformers, a TensorFlow checkpoint of OpenAI's release (its folder, or its path with or
    without .index), a model of igpt's table (emoji-nano), one of the Hugging Face Hub (OWNER/NAME), or an artifact of
    W&B (wandb:ENTITY/PROJECT/NAME:ALIAS).

    `weights` are those of a checkpoint that are read: trained, ema, or None for those by which the best checkpoint is
    chosen.
    """
    if is_wandb_name(run):
        run = wandb_models.download(str(run))
    if (found := _read_folder(run)) is not None:
        if weights == "ema":
            raise IgptError(f"{run} is no checkpoint, so it has no averaged weights; leave out weights=ema.")
        return found
    checkpoint = read_checkpoint(find_checkpoint(run, prefer))
    chosen = checkpoint.chosen(weights)
    task, kept = task_from_state(checkpoint.description.task).trained(checkpoint.weights(chosen))
    description = replace(checkpoint.description, task=task_state(task))
    return StoredModel(checkpoint.path, description, kept, chosen=chosen, step=checkpoint.step)


def _read_folder(run: str | Path) -> StoredModel | None:
    """The model that `run` names; None if that is none, or a checkpoint of igpt."""
    if is_model_name(run):
        folder = named_models.folder_of(str(run))
    else:
        folder = hub_models.download(str(run)) if is_hub_name(run) else expand_user(run)
    if (folder / igpt_folder.DESCRIPTION).exists():
        return igpt_folder.read(folder)
    if is_hub_name(run) or (folder / hugging_face.CONFIG).exists():
        return hugging_face.read(folder)
    if (index := openai_release.find_index(folder)) is not None:
        return openai_release.read(index)
    return None


def files_of(path: Path) -> list[Path]:
    """The files with the weights of a :class:`StoredModel` that was read from `path`."""
    if path.suffix == ".index":
        return openai_release.files(path)
    return weight_files(path) if path.is_dir() else [path]
