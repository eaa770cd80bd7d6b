"""Paths in arguments and in stored configurations."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from glob import iglob
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from igpt.run_directory import tensorflow_index

# Keys whose values are, or may be, paths to inputs; OUTPUTS are paths that a command may create.
PATHS = (
    "data.source.path", "data.source.root", "data.source.group", "data.source.data_files", "data.cache_dir",
    "tokenizer.path", "init_from", "scaling_fit",
)  # fmt: skip
OUTPUTS = ("run", "output", "sweep", "folder", "hydra.run.dir", "hydra.sweep.dir")


def quote(path: str | Path) -> str:
    """A path as the value of a Hydra override, quoted so that it may have any characters."""
    doubled = re.sub(r"(\\+)(?='|\Z)", r"\1\1", str(path))  # Hydra treats backslashes as escapes only before quotes
    return "'" + doubled.replace("'", r"\'") + "'"


def unquote(value: str) -> str:
    """The text between the quotes of an override's value; the value itself if it has no quotes."""
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        return re.sub(rf"(\\+)({value[0]}|\Z)", lambda found: found[1][: len(found[1]) // 2] + found[2], value[1:-1])
    return value


def quote_paths(arguments: Sequence[str]) -> list[str]:
    """Arguments with quotes around paths that Hydra would not read as one text, such as "run=a=b,c (1)"."""
    return [
        _quote_path(argument) if "=" in argument and not argument.startswith("-") else argument  # - begins an option
        for argument in arguments
    ]


def _quote_path(argument: str) -> str:
    key, _, value = argument.partition("=")
    is_path = key in (*PATHS, *OUTPUTS) or os.path.lexists(value)
    return f"{key}={quote(value)}" if is_path and not _is_single_value(argument, value) else argument


def _is_single_value(argument: str, value: str) -> bool:
    """Whether Hydra parses the argument as one value. An existing path that parses as a sweep or a list is not one."""
    try:
        override = OverridesParser.create().parse_override(argument)
    except HydraException:
        return False
    several = override.is_sweep_override() or isinstance(override.value(), list | dict)
    return not (several and os.path.lexists(value))


def make_absolute(config: DictConfig) -> None:
    """Make the relative paths of a configuration absolute, so that the run can be resumed from another directory."""
    for key in PATHS:
        parent, _, name = key.rpartition(".")
        node: Any = OmegaConf.select(config, parent) if parent else config
        if isinstance(node, DictConfig) and name in node and not _is_unresolved(node, name):
            value = node[name] if not OmegaConf.is_config(node[name]) else OmegaConf.to_container(node[name])
            node[name] = _absolute(value)


def _is_unresolved(node: DictConfig, name: str) -> bool:
    """Whether a value is missing, or an interpolation, which is resolved at each use."""
    return OmegaConf.is_interpolation(node, name) or OmegaConf.is_missing(node, name)


def _absolute(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _absolute(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_absolute(inner) for inner in value]
    return str(Path(value).absolute()) if value and isinstance(value, str) and _names_a_file(value) else value


def _names_a_file(value: str) -> bool:
    path = Path(value)
    return path.exists() or tensorflow_index(path) is not None or any(iglob(value))  # noqa: PTH207, it may be any text
