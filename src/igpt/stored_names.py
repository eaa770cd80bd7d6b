"""The names by which a checkpoint knows classes: short ones for ours, dotted paths for a user's own."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from typing import Any, TypeVar

from igpt.errors import IgptError, in_one_line

T = TypeVar("T")


def name_of(found: type, ours: Mapping[str, type]) -> str:
    """The short name of a class of `ours`, or the dotted path of any other one."""
    short = [name for name, known in ours.items() if known is found]
    return short[0] if short else f"{found.__module__}.{found.__qualname__}"


def class_of(name: str, ours: Mapping[str, type[T]], base: type[T]) -> type[T]:
    """The class that :func:`name_of` gave this name.

    A dotted path is imported, and refused unless it is a subclass of `base`: a checkpoint must not be able to call
    whatever it likes.
    """
    if name in ours:
        return ours[name]
    kind = base.__name__.lower()
    if "." not in name:
        raise IgptError(f"The checkpoint's {kind} is '{name}', which this version of igpt does not have.")
    try:
        found: Any = pkgutil.resolve_name(name)
    except Exception as error:  # importing a user's module raises whatever it raises
        raise IgptError(
            f"The checkpoint's {kind} is {name}, which cannot be imported ({in_one_line(error)}); put its "
            "module on the path (PYTHONPATH)."
        ) from None
    if not (isinstance(found, type) and issubclass(found, base)):
        raise IgptError(f"The checkpoint's {kind} is {name}, which is no subclass of igpt's {base.__name__}.")
    return found
