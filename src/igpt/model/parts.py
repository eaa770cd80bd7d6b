"""From the name of a part of the network to its class."""

from __future__ import annotations

import inspect
import pkgutil
from typing import Any

from torch import nn

from igpt.errors import IgptError, in_one_line
from igpt.model.config import TransformerConfig, class_path


def make_part(kind: str, config: TransformerConfig) -> nn.Module:
    """The part that `config` names: kind is positions, norm, attention or mlp. IgptError if there is no such class."""
    name = getattr(config, kind)
    path = class_path(kind, name)
    if (problem := part_problem(path)) is not None:
        raise IgptError(f"model.{kind} is {name}; {problem}.")
    part: nn.Module = pkgutil.resolve_name(path)(config)
    return part


def part_problem(path: str) -> str | None:
    """Why the class at this path cannot be a part; None if it can."""
    try:
        found: Any = pkgutil.resolve_name(path)
    except Exception as error:  # whatever importing a user's module raises
        reason = in_one_line(error)
        return f"it cannot be imported ({reason}); PYTHONPATH must name the folder of its module"
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        return "it must be a class derived from torch.nn.Module"
    try:
        inspect.signature(found).bind(TransformerConfig)
    except TypeError:
        return "its constructor must take one argument, the TransformerConfig"
    return None
