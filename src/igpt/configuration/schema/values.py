"""Types of single values: each checks its range, and its error says which values are allowed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Field, ValidationError, ValidationInfo, WrapValidator
from pydantic_core import PydanticCustomError

PROBLEM = "igpt"  # the type of errors with igpt's own text
BEFORE_MODEL = "before_model"  # in the context of a check: see igpt.configuration.schema.check.check


def before_model(info: ValidationInfo) -> bool:
    """Whether a model that is not read yet will determine its shape, its tokenizer and the resolution."""
    return bool((info.context or {}).get(BEFORE_MODEL))


def problem(text: str, key: str = "") -> PydanticCustomError:
    """An error at a node of the configuration, or at one `key` in it: "KEY is VALUE; TEXT."."""
    return PydanticCustomError(PROBLEM, "{text}", {"text": text, "key": key})


def expects(allowed: str) -> WrapValidator:
    """A validator whose error says what is `allowed`, whatever is wrong with the value."""

    def check(value: Any, validate: Callable[[Any], Any]) -> Any:
        try:
            return validate(value)
        except ValidationError:
            raise problem(f"it must be {allowed}") from None

    return WrapValidator(check)


def one_of(*choices: Any) -> WrapValidator:
    """One of several values; types are compared too (1 is not true)."""

    def check(value: Any, validate: Callable[[Any], Any]) -> Any:
        if not any(value == choice and type(value) is type(choice) for choice in choices):
            *others, last = (format_value(choice) for choice in choices)
            raise problem(f"it must be {', '.join(others)} or {last}" if others else f"it must be {last}")
        return value

    return WrapValidator(check)


def format_value(value: Any) -> str:
    """A value as it is written in an argument."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"'{value}'" if value == "" or (isinstance(value, str) and " " in value) else str(value)


Flag = Annotated[bool, expects("true or false")]
MaybeFlag = Annotated[bool | None, expects("true, false or null")]
Text = Annotated[str, Field(min_length=1), expects("text (a number as text is quoted twice: KEY=\"'1'\")")]
MaybeText = Annotated[str | None, Field(min_length=1), expects("text or null")]
Texts = Annotated[list[str], expects("a list of texts, [a,b]")]

Count = Annotated[int, Field(ge=1), expects("a whole number of at least 1")]
MaybeCount = Annotated[int | None, Field(ge=1), expects("a whole number of at least 1, or null")]
Natural = Annotated[int, Field(ge=0), expects("a whole number of at least 0")]
MaybeNatural = Annotated[int | None, Field(ge=0), expects("a whole number of at least 0, or null")]
Seed = Annotated[int, Field(ge=0, lt=2**32), expects("a whole number from 0 to 4294967295")]

Positive = Annotated[float, Field(gt=0), expects("a number above 0")]
NotNegative = Annotated[float, Field(ge=0), expects("a number of at least 0")]
MaybeNotNegative = Annotated[float | None, Field(ge=0), expects("a number of at least 0, or null")]
MaybePositive = Annotated[float | None, Field(gt=0), expects("a number above 0, or null")]
Share = Annotated[float, Field(gt=0, lt=1), expects("a number between 0 and 1")]
ShareOrAll = Annotated[float, Field(gt=0, le=1), expects("a number above 0 and at most 1")]
MaybeShareOrAll = Annotated[float | None, Field(gt=0, le=1), expects("a number above 0 and at most 1, or null")]
AnyShare = Annotated[float, Field(ge=0, le=1), expects("a number from 0 to 1")]
BelowOne = Annotated[float, Field(ge=0, lt=1), expects("a number of at least 0 and below 1")]

Device = Annotated[
    str | None, Field(pattern=r"^(cpu|mps|cuda(:\d+)?)$"), expects("cpu, cuda, cuda:NUMBER, mps, or null for the best")
]
MatmulPrecision = Annotated[str, one_of("high", "highest")]
Checkpoint = Annotated[str, one_of("best", "last")]
MaybeGoal = Annotated[str | None, one_of("min", "max", None)]
Weights = Annotated[str | None, one_of("trained", "ema", None)]
ClassChoice = Annotated[
    Annotated[int, Field(ge=0)] | Annotated[str, Field(min_length=1)] | None,
    expects("a class by its name or its number from 0, or null for any"),
]
