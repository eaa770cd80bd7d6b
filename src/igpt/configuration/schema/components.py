"""Parts of the configuration that name, by `_target_`, what is made of them."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, GetCoreSchemaHandler, model_validator
from pydantic_core import CoreSchema, core_schema

from igpt.configuration.schema.values import problem

UNSET: Any = None  # a key that need not be there, since what is made has a default for it

HYDRAS = {"_target_", "_args_", "_convert_", "_partial_", "_recursive_"}
FOREIGN, WORD = "a user's own", "a word"  # tags beside the targets


class Node(BaseModel):
    """A part whose keys are all known, with values of exactly these types."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class Component(Node):
    """What igpt makes of a part of the configuration; its keys are the arguments of `target`."""

    target: ClassVar[str]
    given: ClassVar[tuple[str, ...]] = ()  # arguments that do not come from the configuration

    @model_validator(mode="before")
    @classmethod
    def _without_target(cls, values: Any) -> Any:
        return {key: value for key, value in values.items() if key != "_target_"}


class OpenComponent(Component):
    """What another library makes: the keys of conf/ have their types, others must be arguments that it takes."""

    model_config = ConfigDict(extra="allow")

    takes: ClassVar[tuple[str, ...]] = ()  # what gets its further arguments, if it hands them on
    refused: ClassVar[Mapping[str, str]] = {}  # argument -> what to do instead

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
                    raise problem(f"{self.target} takes no such argument", key)
        return self


@dataclass(frozen=True)
class OneOf:
    """A part that is made into one of ours (or of another library's that we know), or into something of the user's own,
    of which only the arguments are checked. `given` are those that do not come from the configuration.
    """

    group: str  # where its choices are
    models: tuple[type[Component], ...]
    given: tuple[str, ...] = ()
    optional: bool = False
    words: tuple[str, ...] = ()  # that stand for a part which has no settings

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
            raise problem(f"it must be {' or '.join(self.words)}, or say with _target_ what it is")
        if isinstance(value, str):
            raise problem(f"choose one of a group by {self.group}={value}")
        raise problem(f"it must say with _target_ what it is; choose one of a group by {self.group}=NAME")

    def _tag(self, value: Any) -> str:
        if isinstance(value, str):
            return WORD
        target = value["_target_"]
        return target if any(target == model.target for model in self.models) else FOREIGN

    def _check_foreign(self, value: dict[str, Any]) -> dict[str, Any]:
        try:
            made_by = pkgutil.resolve_name(value["_target_"])
        except Exception as error:  # whatever importing a user's module raises
            raise problem(f"it cannot be imported ({' '.join(str(error).split())})", "_target_") from None
        if not value.get("_partial_"):
            check_arguments(made_by, value, self.given)
        return value


def named(group: str) -> BeforeValidator:
    """A group of any number of parts, each by a name."""

    def check(value: Any) -> Any:
        if value is None or isinstance(value, dict):
            return value
        raise problem(f"it must be null, or parts by their names as in conf/{group}")

    return BeforeValidator(check)


def check_arguments(made_by: Callable[..., Any], values: Mapping[str, Any], given: tuple[str, ...]) -> None:
    """Refuse keys that a callable does not take, and say which of its arguments are missing."""
    try:
        parameters = inspect.signature(made_by).parameters
    except (TypeError, ValueError):
        return  # written in C, some of which do not say
    name = values["_target_"]
    keys = [key for key in values if key not in HYDRAS]
    if not any(p.kind == p.VAR_KEYWORD for p in parameters.values()):
        for key in keys:
            if key not in parameters:
                raise problem(f"{name} takes no such argument", key)
    for p in list(parameters.values())[len(values.get("_args_") or ()) :]:
        named = p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        if named and p.default is p.empty and p.name not in (*keys, *given):
            raise problem(f"{name} needs the argument {p.name}")
