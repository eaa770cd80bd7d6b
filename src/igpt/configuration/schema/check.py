"""The check of a whole configuration; errors become one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from omegaconf import Container, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from igpt.configuration.hydra_messages import explain_value
from igpt.configuration.schema.command_schemas import COMMANDS
from igpt.configuration.schema.values import BEFORE_MODEL, PROBLEM, format_value
from igpt.configuration.suggestions import did_you_mean
from igpt.errors import IgptError
from igpt.files import all_printable
from igpt.nested import value_at


def check(config: DictConfig, command: str, before_model: bool = False) -> None:
    """Raise :class:`IgptError` if a command's configuration has a value of wrong type or range, or an unknown key.

    `before_model` leaves out the rules about values that a model will determine, which is not read yet.
    """
    try:
        plain = all_printable(OmegaConf.to_container(config, resolve=True, throw_on_missing=True))
        COMMANDS[command].model_validate(plain, context={BEFORE_MODEL: before_model})
    except OmegaConfBaseException as error:
        raise IgptError(explain_value(error)) from None
    except ValidationError as error:
        found = dict(problems(error, plain, command))
        direct = {path: text for path, text in found.items() if not is_interpolated(config, path)}
        raise IgptError("; ".join((direct or found).values()) + ".") from None


def problems(error: ValidationError, plain: Any, command: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """The path of each wrong key, and what is wrong with it."""
    for each in error.errors():
        context = each.get("ctx", {})
        kind = each["type"]
        new = [each["loc"][-1]] if kind in ("missing", "extra_forbidden") else context.get("key", "").split(".")
        inside = each["loc"][:-1] if kind in ("missing", "extra_forbidden") else each["loc"]
        path = (*path_of(inside, plain), *(str(key) for key in new if key))
        name = ".".join(path)
        if kind == "missing":
            yield path, f"{name} is missing"
        elif kind == "extra_forbidden":
            name = ".".join((*path, *first_keys(value_at(plain, path))))
            yield path, f"{name} is a key that nothing uses{did_you_mean(name, plain)}"
        elif kind == PROBLEM:
            yield path, f"{name} is {format_value(value_at(plain, path))}; {context['text']}"
        else:
            yield path, f"{name} is {format_value(value_at(plain, path))}; {each['msg']}"


def path_of(location: tuple[int | str, ...], plain: Any) -> tuple[str, ...]:
    """The keys of a pydantic location, without the names of union members in it."""
    path = []
    for step in location:
        if isinstance(plain, dict) and step in plain:
            plain = plain[step]
            path.append(str(step))
    return tuple(path)


def first_keys(value: Any) -> Iterator[str]:
    """The keys that lead to the first value in nested dicts."""
    while isinstance(value, dict) and value:
        key, value = next(iter(value.items()))
        yield str(key)


def is_interpolated(config: DictConfig, path: tuple[str, ...]) -> bool:
    """Whether a value, or a part that contains it, is interpolated from another key; that key's error is reported."""
    node: Any = config
    for key in path:
        if not isinstance(node, Container) or key not in node:
            return False
        if OmegaConf.is_interpolation(node, key):
            return True
        node = node[key]
    return False
