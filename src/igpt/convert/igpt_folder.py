"""igpt's own exported folder: igpt.json and model.safetensors, for every model. Nothing in it is pickled."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from igpt.checkpoint import FORMAT, Description, description_from
from igpt.convert.stored_model import StoredModel, empty_weights
from igpt.convert.weight_files import WEIGHTS, check_tensors, read_json, read_weights
from igpt.errors import IgptError
from igpt.model.config import TransformerConfig
from igpt.objectives.tasks import task_from_state
from igpt.tokenizers import tokenizer_from_state

DESCRIPTION = "igpt.json"
STEP, RESULTS = "step", "results"  # keys beside those of a Description
TENSOR = "tensor"  # {"tensor": NAME} in igpt.json stands for a tensor in model.safetensors


def write(stored: StoredModel, folder: Path) -> None:
    """Write the model to a folder. Tensors of its description, such as a palette, go into the file of the weights.

    The absolute paths in its configuration are those of one machine, so they are replaced by null.
    """
    tensors = {**stored.weights}
    description = _without_tensors(asdict(stored.description), tensors)
    description["configuration"] = _without_paths(description["configuration"])
    content = {"format": FORMAT, "version": version("igpt"), **description, STEP: stored.step, RESULTS: stored.results}
    separate = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    save_file(separate, folder / WEIGHTS)
    (folder / DESCRIPTION).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read(folder: Path) -> StoredModel:
    """The model that :func:`write` wrote. Raises :class:`IgptError` if a file is damaged, or another one's."""
    content = read_json(folder / DESCRIPTION)
    weights = read_weights(folder)
    description = description_from(_with_tensors(content, weights, folder), folder / DESCRIPTION)
    try:
        wanted = _wanted(description)
        vocab_size = tokenizer_from_state(description.tokenizer).vocab_size
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # values of other types than were written
        raise IgptError(
            f"{folder / DESCRIPTION} describes no model ({error}); it is damaged, so get it again."
        ) from None
    if vocab_size != description.model["vocab_size"]:
        raise IgptError(
            f"{folder / DESCRIPTION} has a tokenizer of {vocab_size} tokens and a model of "
            f"{description.model['vocab_size']}; it is damaged, so get it again."
        )
    check_tensors(weights, wanted, folder)
    return StoredModel(folder, description, weights, content.get(RESULTS, {}), step=content.get(STEP))


def _wanted(description: Description) -> dict[str, Tensor]:
    """The state dict of the described Objective, without values."""
    shape = TransformerConfig(**description.model)
    with torch.device("meta"):
        head = task_from_state(description.task).make_head(shape, len(description.classes))
    modules = {"model.": empty_weights(shape), "head.": {} if head is None else head.state_dict()}
    return {f"{prefix}{name}": tensor for prefix, found in modules.items() for name, tensor in found.items()}


def _without_tensors(value: Any, tensors: dict[str, Tensor], name: str = "description") -> Any:
    """Nested dicts and lists in which each tensor, which is added to `tensors`, is replaced by its name there."""
    if isinstance(value, Tensor):
        tensors[name] = value
        return {TENSOR: name}
    if isinstance(value, dict):
        return {key: _without_tensors(inner, tensors, f"{name}.{key}") for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_tensors(inner, tensors, f"{name}.{i}") for i, inner in enumerate(value)]
    return value


def _with_tensors(value: Any, tensors: dict[str, Tensor], folder: Path) -> Any:
    """The inverse of :func:`_without_tensors`: it takes each tensor out of `tensors` again."""
    if isinstance(value, dict) and set(value) == {TENSOR}:
        if str(value[TENSOR]) not in tensors:
            raise IgptError(f"{folder} lacks the tensor {value[TENSOR]}, which {DESCRIPTION} names; export it again.")
        return tensors.pop(value[TENSOR])
    if isinstance(value, dict):
        return {key: _with_tensors(inner, tensors, folder) for key, inner in value.items()}
    if isinstance(value, list):
        return [_with_tensors(inner, tensors, folder) for inner in value]
    return value


def _without_paths(value: Any) -> Any:
    """Nested dicts and lists in which None replaces each text that is an absolute path."""
    if isinstance(value, dict):
        return {key: _without_paths(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_paths(inner) for inner in value]
    return None if isinstance(value, str) and value.startswith(("/", "~")) else value
