"""Parts of the configuration from which Hydra instantiates an object: `_target_` names its class."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, GetCoreSchemaHandler, model_validator
from pydantic_core import CoreSchema, core_schema

from igpt.configuration.schema.values import problem
from igpt.errors import in_one_line

UNSET: Any = None  # an optional key; the class has a default for it

HYDRA_KEYS = {"_target_", "_args_", "_convert_", "_partial_", "_recursive_"}
FOREIGN, WORD = "a user's own", "a word"  # tags of the union besides the targets


class Node(BaseModel):
    """A part whose keys are all known, with values of exactly these types."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class Component(Node):
    """A part that is instantiated as igpt's class `target`; its keys are the arguments of the class."""

    target: ClassVar[str]
    given: ClassVar[tuple[str, ...]] = ()  # arguments that igpt passes itself

    @model_validator(mode="before")
    @classmethod
    def _without_target(cls, values: Any) -> Any:
        return {key: value for key, value in values.items() if key != "_target_"}


class OpenComponent(Component):
    """A class of another library: the keys in conf/ are typed; further keys must be arguments of the class."""

    model_config = ConfigDict(extra="allow")

    takes: ClassVar[tuple[str, ...]] = ()  # callables that receive further arguments, if the class passes them on
    refused: ClassVar[Mapping[str, str]] = {}  # argument -> what to use instead

    @model_validator(mode="after")
    def _only_what_is_taken(self) -> OpenComponent:
        for key in self.model_extra or {}:
            if key in self.refused:
                raise problem(self.refused[key], key)
        if self.model_extra:
            known = [
                name
                for path in self.takes or (self.target,)
                for name in inspect.signature(pkgutil.resolve_name(path)).parameters
            ]
            for key in self.model_extra:
                if key not in known:
                    raise problem(f"{self.target} has no such argument", key)
        return self


@dataclass(frozen=True)
class OneOf:
    """A part that is instantiated as one of `models`, or as a class of the user's own, whose arguments are checked
    against its signature. `given` are the arguments that igpt passes itself.
    """

    group: str  # the configuration group with its choices
    models: tuple[type[Component], ...]
    given: tuple[str, ...] = ()
    optional: bool = False
    words: tuple[str, ...] = ()  # allowed instead of a part

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        choices: dict[Any, CoreSchema] = {model.target: handler.generate_schema(model) for model in self.models}
        choices[FOREIGN] = core_schema.no_info_plain_validator_function(self._check_foreign)
        choices[WORD] = core_schema.any_schema()
        union = core_schema.tagged_union_schema(choices, self._tag)
        checked = core_schema.no_info_before_validator_function(self._check_is_component, union)
        return core_schema.nullable_schema(checked) if self.optional else checked

    def _check_is_component(self, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("_target_"), str):
            return value
        if value in self.words:
            return value
        if self.words:
            raise problem(f"it must be {' or '.join(self.words)}, or a part with a _target_")
        if isinstance(value, str):
            raise problem(f"to choose from the group, write {self.group}={value}")
        raise problem(f"it must be a part with a _target_; choose one with {self.group}=NAME")

    def _tag(self, value: Any) -> str:
        if isinstance(value, str):
            return WORD
        target = value["_target_"]
        return target if any(target == model.target for model in self.models) else FOREIGN

    def _check_foreign(self, value: dict[str, Any]) -> dict[str, Any]:
        try:
            factory = pkgutil.resolve_name(value["_target_"])
        except Exception as error:  # importing a user's module may raise anything
            reason = in_one_line(error)
            raise problem(f"it cannot be imported ({reason}); see conf/{self.group} for examples", "_target_") from None
        if not value.get("_partial_"):
            check_arguments(factory, value, self.given)
        return value


def named_parts(group: str) -> BeforeValidator:
    """A group of any number of parts, each with a name."""

    def check(value: Any) -> Any:
        if value is None or isinstance(value, dict):
            return value
        raise problem(f"it must be null, or named parts as in conf/{group}")

    return BeforeValidator(check)


def check_arguments(factory: Callable[..., Any], values: Mapping[str, Any], given: tuple[str, ...]) -> None:
    """Refuse keys that are no arguments of a callable, and required arguments that are missing."""
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return  # some callables written in C have no signature
    name = values["_target_"]
    keys = [key for key in values if key not in HYDRA_KEYS]
    if not any(p.kind == p.VAR_KEYWORD for p in parameters.values()):
        for key in keys:
            if key not in parameters:
                raise problem(f"{name} has no such argument", key)
    for p in list(parameters.values())[len(values.get("_args_") or ()) :]:
        named = p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        if named and p.default is p.empty and p.name not in (*keys, *given):
            raise problem(f"{name} needs the argument {p.name}")


def foreign_targets(part: Any) -> list[str]:
    """The classes that a part of a configuration names, at any depth, and that no component here describes."""
    return sorted(set(_targets(part)) - set(_known_targets(Component)))


def _targets(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        yield from (str(part[key]) for key in part if key == "_target_")
    for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from _targets(inner)


def _known_targets(base: type[Component]) -> Iterator[str]:
    for component in base.__subclasses__():
        if "target" in vars(component):
            yield component.target
        yield from _known_targets(component)
