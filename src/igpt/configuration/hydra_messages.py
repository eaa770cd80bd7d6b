"""Errors of Hydra and OmegaConf about arguments, explained in one sentence that says what to do."""

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

from igpt.configuration.path_arguments import quote
from igpt.configuration.suggestions import dotted_keys, resembling

OPTIONAL_GROUPS = ("logger", "callbacks", "data/augment")
WITHOUT_EFFECT = ("experiment=null", "debug=null")


def replace_null_groups(arguments: Sequence[str]) -> list[str]:
    """Arguments in which GROUP=null, which Hydra refuses, chooses the group's empty choice: GROUP=none."""
    groups = "|".join(OPTIONAL_GROUPS)
    return [
        re.sub(f"^({groups})=null$", r"\1=none", argument) for argument in arguments if argument not in WITHOUT_EFFECT
    ]


def is_configuration_error(error: Exception) -> bool:
    """Whether Hydra or OmegaConf raised the error because of the arguments, and not because of a bug."""
    if isinstance(error, ValueError):
        return str(error).startswith(("Config group override", "Only one of --run"))
    return isinstance(error, (HydraException, OmegaConfBaseException)) and not isinstance(error, InstantiationException)


def explain(error: Exception, command: str, arguments: Sequence[str]) -> str:
    """One sentence for an error of Hydra or OmegaConf that the `arguments` of a command caused."""
    if isinstance(error, OverrideParseException):
        return explain_syntax(error.override)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, name = error.missing_cfg_file.rsplit("/", 1)
        meant = resembling(name, list(error.options))
        suggestion = f"did you mean {group}={meant}? The choices are" if meant else "choose one of"
        return f"There is no {group}={name}; {suggestion} {', '.join(error.options)}."
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    text = str(error) or str(cause)
    for pattern, explanation in EXPLANATIONS.items():
        if match := re.search(pattern, text):
            return explanation(match[1], command, arguments)
    if isinstance(cause, OmegaConfBaseException):
        return explain_value(cause)
    return " ".join(text.split("See https://")[0].split())


def explain_value(error: OmegaConfBaseException) -> str:
    """One sentence for a value that is missing, or that refers to a key which does not exist."""
    key, message = error.full_key, str(error).splitlines()[0]
    if isinstance(error, MissingMandatoryValue):
        return f"{key} is required; give it as {key}=VALUE."
    if isinstance(error, (InterpolationKeyError, InterpolationResolutionError)):
        return f"{key} refers to another key, and that fails: {message}."
    return f"{key}: {message}."


def explain_syntax(argument: str) -> str:
    """One sentence for an argument that Hydra cannot parse; usually a character in it must be quoted."""
    key, equals, value = argument.partition("=")
    if not equals:
        return (
            f"{argument} is not KEY=VALUE; write no spaces around the =, and quote a value with spaces: "
            f"{shell_argument('KEY', 'a b')}"
        )
    if key != key.strip() or value != value.lstrip():
        return f"'{argument}' has spaces around the =; write {key.strip()}={value.strip()}."
    for left, right in ("[]", "{}"):
        if value.startswith(left) and not value.endswith(right):
            return f"{argument} has a {left} without its {right}; write a list without spaces, or quote it."
    if value.startswith(("'", '"')) and value.count(value[0]) < 2:
        return f"{argument} has an opening quote without a closing one."
    quoted = shell_argument(key, value)
    return f"{argument} has characters that must be quoted, once for the shell and once for Hydra: {quoted}"


def shell_argument(key: str, value: str) -> str:
    """What to type in a shell so that Hydra gets this value, whatever characters it has."""
    argument = f"{key}={quote(value)}"
    return shlex.quote(argument) if re.search(r'["$`\\!]', argument) else f'"{argument}"'


def unknown_key(key: str, command: str, arguments: Sequence[str]) -> str:
    """A key that does not exist, with the key that was probably meant."""
    known = {
        name for name in known_names(command, arguments) if key.startswith("hydra") or not name.startswith("hydra")
    }
    closest = resembling(key, sorted(known - {key}))
    suggestion = f"did you mean {closest}?" if closest else f"igpt-{command} --cfg job lists all keys."
    return f"There is no key {key}; {suggestion}"


def known_names(command: str, arguments: Sequence[str]) -> set[str]:
    """All keys and groups of a command's configuration, composed with the choices of groups among the arguments."""
    from hydra import compose, initialize_config_module

    with initialize_config_module("igpt.conf", version_base="1.3"):
        choices = [argument for argument in arguments if re.fullmatch(r"[\w/]+=\w+", argument)]
        for overrides in (choices, []):
            try:
                composed = compose(command, overrides, return_hydra_config=True)
                config: Any = OmegaConf.to_container(composed, resolve=False)
            except (HydraException, OmegaConfBaseException, ValueError):
                continue
            groups = {group.split("@")[0] for group in config["hydra"]["runtime"]["choices"]}
            return {*dotted_keys(config), *groups}
    return set()


def several_values(argument: str, command: str, arguments: Sequence[str]) -> str:
    """Several values for one key, without -m."""
    key, _, value = argument.partition("=")
    return (
        f"{argument} gives several values: write {key}=[{value}] for a list, {shell_argument(key, value)} for one text "
        "that contains a comma, or -m before it for a sweep."
    )


def existing_key(key: str, command: str, arguments: Sequence[str]) -> str:
    """A + before a key that exists."""
    return f"{key} exists already; remove the + before it."


def empty_group(what: str, command: str, arguments: Sequence[str]) -> str:
    """A group without a choice."""
    named = [argument for argument in arguments if re.fullmatch(r"[\w/@]+=[^a-zA-Z]*(null)?", argument)]
    return f"{' '.join(named)}: a group needs the name of a choice; --help lists them."


# What Hydra's message matches, and the function that explains it.
EXPLANATIONS: dict[str, Callable[[str, str, Sequence[str]], str]] = {
    r"Could not override '(.+?)'": unknown_key,
    r"Could not delete from config. '(.+)' does not exist": unknown_key,
    r"Could not delete '(.+)'. No match": unknown_key,
    r"looks like a config group override, but config group '(.+)' does not exist": unknown_key,
    r"An item is already at '(.+)'": existing_key,
    r"Multiple values for (.+?)\. To override": existing_key,
    r"Ambiguous value for argument '(.+)'": several_values,
    r"Sweep parameters '(.+)' requires": lambda argument, *_: f"{argument} is a sweep; write -m before it.",
    r"(Config group override) must be": empty_group,
}
