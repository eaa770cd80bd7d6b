"""Hydra's and OmegaConf's messages in one sentence, with what to do here."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from typing import Any

from hydra.errors import HydraException, InstantiationException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import (
    InterpolationKeyError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from igpt.configuration.path_arguments import quoted
from igpt.configuration.suggestions import dotted_keys, resembling

CAN_BE_EMPTY = ("logger", "callbacks", "data/augment")
LEFT_OUT = ("experiment=null", "debug=null")


def with_null_groups(arguments: Sequence[str]) -> list[str]:
    """Arguments with null, which Hydra does not take for a group, as the choice that has nothing in it."""
    groups = "|".join(CAN_BE_EMPTY)
    return [re.sub(f"^({groups})=null$", r"\1=none", argument) for argument in arguments if argument not in LEFT_OUT]


def is_rewordable(error: Exception) -> bool:
    """Whether an error is about a configuration, and not one of a program."""
    if isinstance(error, ValueError):
        return str(error).startswith("Config group override")
    return isinstance(error, (HydraException, OmegaConfBaseException)) and not isinstance(error, InstantiationException)


def reworded(error: Exception, command: str, arguments: Sequence[str]) -> str:
    """One sentence for an error of Hydra or OmegaConf that the `arguments` of a command caused."""
    if isinstance(error, OverrideParseException):
        return about_grammar(error.override)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, name = error.missing_cfg_file.rsplit("/", 1)
        meant = resembling(name, list(error.options))
        suggestion = f"did you mean {group}={meant}? The choices are" if meant else "choose one of"
        return f"{group}={name} is not there; {suggestion} {', '.join(error.options)}."
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    text = str(error) or str(cause)
    for pattern, say in PATTERNS.items():
        if match := re.search(pattern, text):
            return say(match[1], command, arguments)
    if isinstance(cause, OmegaConfBaseException):
        return about_value(cause)
    return " ".join(text.split("See https://")[0].split())


def about_value(error: OmegaConfBaseException) -> str:
    """A value that is missing, or that refers to something which is not there."""
    key, said = error.full_key, str(error).splitlines()[0]
    if isinstance(error, MissingMandatoryValue):
        return f"{key} is required; give it as {key}=VALUE."
    if isinstance(error, (InterpolationKeyError, InterpolationResolutionError)):
        return f"{key} refers to something else, which fails: {said}."
    return f"{key}: {said}."


def about_grammar(argument: str) -> str:
    """An argument that Hydra cannot read: most of them have a character that must be quoted."""
    key, equals, value = argument.partition("=")
    if not equals:
        return (
            f"{argument} is not KEY=VALUE; no spaces stand around the =, and a value with spaces is quoted: "
            f"{typed('KEY', 'a b')}"
        )
    if key != key.strip() or value != value.lstrip():
        return f"'{argument}' has spaces around the =; write {key.strip()}={value.strip()}."
    for left, right in ("[]", "{}"):
        if value.startswith(left) and not value.endswith(right):
            return f"{argument} has a {left} without its {right}; a list has no spaces, or is quoted."
    if value[0] in "'\"" and value.count(value[0]) < 2:
        return f"{argument} has a quote that does not end."
    return f"{argument} has characters that must be quoted, once for the shell and once for Hydra: {typed(key, value)}"


def typed(key: str, value: str) -> str:
    """How to type, in a shell, an argument whose value has any characters."""
    argument = f"{key}={quoted(value)}"
    return shlex.quote(argument) if re.search(r'["$`\\!]', argument) else f'"{argument}"'


def unknown_key(key: str, command: str, arguments: Sequence[str]) -> str:
    """A key that is not there, and the one that was meant."""
    known = {
        name for name in known_names(command, arguments) if key.startswith("hydra") or not name.startswith("hydra")
    }
    closest = resembling(key, sorted(known - {key}))
    return f"There is no key {key}" + (
        f"; did you mean {closest}?" if closest else f"; igpt-{command} --cfg job shows all."
    )


def known_names(command: str, arguments: Sequence[str]) -> set[str]:
    """All keys and groups of a command's configuration, with as many of the arguments as can be."""
    from hydra import compose, initialize_config_module

    with initialize_config_module("igpt.conf", version_base="1.3"):
        chosen = [argument for argument in arguments if re.fullmatch(r"[\w/]+=\w+", argument)]  # choices of groups
        for overrides in (chosen, []):
            try:
                config: Any = OmegaConf.to_container(
                    compose(command, overrides, return_hydra_config=True), resolve=False
                )
            except (HydraException, OmegaConfBaseException, ValueError):
                continue
            groups = {group.split("@")[0] for group in config["hydra"]["runtime"]["choices"]}
            return {*dotted_keys(config), *groups}
    return set()


def sweep(argument: str, command: str, arguments: Sequence[str]) -> str:
    """Several values without -m."""
    key, _, value = argument.partition("=")
    return (
        f"{argument} gives several values: write {key}=[{value}] for a list of them, {typed(key, value)} for one text "
        "with a comma in it, or -m in front for a sweep over them."
    )


def leave_out_plus(key: str, command: str, arguments: Sequence[str]) -> str:
    """What is appended although it is there."""
    return f"{key} is there already; leave out the + in front of it."


def empty_group(what: str, command: str, arguments: Sequence[str]) -> str:
    """A group without a choice."""
    named = [argument for argument in arguments if re.fullmatch(r"[\w/@]+=[^a-zA-Z]*(null)?", argument)]
    return f"{' '.join(named)}: a group takes the name of a choice, which --help lists."


PATTERNS: dict[str, Callable[[str, str, Sequence[str]], str]] = {
    r"Could not override '(.+?)'": unknown_key,
    r"Could not delete from config. '(.+)' does not exist": unknown_key,
    r"Could not delete '(.+)'. No match": unknown_key,
    r"looks like a config group override, but config group '(.+)' does not exist": unknown_key,
    r"An item is already at '(.+)'": leave_out_plus,
    r"Multiple values for (.+?)\. To override": leave_out_plus,
    r"Ambiguous value for argument '(.+)'": sweep,
    r"Sweep parameters '(.+)' requires": lambda argument, *_: f"{argument} is a sweep; write -m in front of it.",
    r"(Config group override) must be": empty_group,
}
