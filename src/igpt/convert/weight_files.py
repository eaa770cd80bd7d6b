"""Files with named tensors, in one piece or in shards: safetensors, or PyTorch's .bin. No code in them is run."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from igpt.errors import IgptError, reason_of, some_of

WEIGHTS = "model.safetensors"
TORCH_WEIGHTS = "pytorch_model.bin"  # read if there is no other file


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder, by name. Raises :class:`IgptError` if a file is missing or damaged."""
    weights: dict[str, Tensor] = {}
    for path in weight_files(folder):
        weights |= _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    return weights


def weight_files(folder: Path) -> list[Path]:
    """The file with a folder's weights, or all shards that its index names."""
    for name in (WEIGHTS, TORCH_WEIGHTS):
        if (folder / name).exists():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.exists():
            return _shards(index)
    raise IgptError(f"{folder} has no weights; it needs {WEIGHTS} or {TORCH_WEIGHTS}.")


def _shards(index: Path) -> list[Path]:
    content = read_json(index)
    weight_map = content.get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise IgptError(f"{index} has no weight_map, so it is no index of shards; download the folder again.")
    shards = [index.parent / Path(name).name for name in sorted(set(weight_map.values()))]
    missing = [path.name for path in shards if not path.exists()]
    if missing:
        raise IgptError(f"{index.parent} lacks {some_of(missing)}, named in {index.name}; download the folder again.")
    return shards


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, "safetensors", error) from None


def _read_torch(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", mmap=zipfile.is_zipfile(path), weights_only=True)
    except Exception as error:  # torch.load raises whatever its readers stumble over
        raise _unreadable(path, "PyTorch weights", error) from None
    is_weights = isinstance(content, dict) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    )
    if not is_weights:
        raise _unreadable(path, "PyTorch weights", "it contains other things than named tensors")
    return content


def _unreadable(path: Path, kind: str, error: object) -> IgptError:
    return IgptError(f"{path} cannot be read as {kind} ({reason_of(error)[:120]}); it may be damaged, so get it again.")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file with one object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise IgptError(f"{path.parent} has no {path.name}, so it is not a complete model.") from None
    except (OSError, ValueError) as error:
        raise IgptError(f"{path} is not JSON ({error}); it may be damaged, so get it again.") from None
    if not isinstance(content, dict):
        raise IgptError(f"{path} is not a JSON object; it may be damaged, so get it again.")
    return content


def check_tensors(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], folder: Path) -> None:
    """Raise :class:`IgptError` unless the tensors have the names and shapes of `wanted`, and are floating-point numbers
    where those are.

    The values of `wanted` do not matter, so it may be on `meta`.
    """
    problems = {
        "lacks the tensors": [name for name in wanted if name not in found],
        "has tensors that do not belong to this model:": [name for name in found if name not in wanted],
    }
    for problem, names in problems.items():
        if names:
            raise IgptError(
                f"{folder} {problem} {some_of(names)}; its weights are not those of the model it describes."
            )
    for name, tensor in found.items():
        if tensor.shape != wanted[name].shape:
            raise IgptError(
                f"{folder} has {name} with shape {tuple(tensor.shape)} instead of {tuple(wanted[name].shape)}; its "
                "weights do not fit its configuration."
            )
        if wanted[name].is_floating_point() and not tensor.is_floating_point():
            raise IgptError(f"{folder} has {name} as {tensor.dtype}; igpt reads floating-point weights only.")
