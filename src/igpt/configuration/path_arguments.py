"""Paths on the command line and in stored configurations."""

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

# Keys whose values are paths, or may be.
PATHS = (
    "data.source.path", "data.source.root", "data.source.group", "data.source.data_files", "data.cache_dir",
    "tokenizer.path", "init_from",
)  # fmt: skip
OUTPUTS = ("run", "output", "sweep", "hydra.run.dir", "hydra.sweep.dir")


def quoted(path: str | Path) -> str:
    """A path as a Hydra override's value, whatever characters it has."""
    doubled = re.sub(r"(\\+)(?='|\Z)", r"\1\1", str(path))  # Hydra reads backslashes as escapes only in front of quotes
    return "'" + doubled.replace("'", r"\'") + "'"


def unquoted(value: str) -> str:
    """What is between the quotes of an override's value, if it has them."""
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        return re.sub(rf"(\\+)({value[0]}|\Z)", lambda found: found[1][: len(found[1]) // 2] + found[2], value[1:-1])
    return value


def quote_paths(arguments: Sequence[str]) -> list[str]:
    """Arguments in which paths have quotes wherever Hydra would take them for something else: "run=a=b,c (1)"."""
    return [_quote_path(argument) if "=" in argument else argument for argument in arguments]


def _quote_path(argument: str) -> str:
    key, _, value = argument.partition("=")
    meant = key in (*PATHS, *OUTPUTS) or os.path.lexists(value)
    return f"{key}={quoted(value)}" if meant and not _is_plain(argument, value) else argument


def _is_plain(argument: str, value: str) -> bool:
    """Whether Hydra reads a single value, which an existing path of several (a sweep, a list) is not."""
    try:
        override = OverridesParser.create().parse_override(argument)
    except HydraException:
        return False
    several = override.is_sweep_override() or isinstance(override.value(), list | dict)
    return not (several and os.path.lexists(value))


def make_absolute(config: DictConfig) -> None:
    """Write out the paths of a configuration that are relative to the working directory: a run may be resumed, and its
    data used, from elsewhere.
    """
    for key in PATHS:
        parent, _, name = key.rpartition(".")
        node: Any = OmegaConf.select(config, parent) if parent else config
        if isinstance(node, DictConfig) and name in node and not _is_open(node, name):
            value = node[name] if not OmegaConf.is_config(node[name]) else OmegaConf.to_container(node[name])
            node[name] = _absolute(value)


def _is_open(node: DictConfig, name: str) -> bool:
    """Whether a value is an interpolation, which is read anew each time, or missing."""
    return OmegaConf.is_interpolation(node, name) or OmegaConf.is_missing(node, name)


def _absolute(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _absolute(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_absolute(inner) for inner in value]
    exists = isinstance(value, str) and (Path(value).exists() or any(iglob(value)))  # noqa: PTH207, any text may come
    return str(Path(value).absolute()) if value and exists else value
