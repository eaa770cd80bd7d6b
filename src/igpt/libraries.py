"""Errors of libraries, as sentences: of optional ones that are missing, and of those that use the network."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from igpt.errors import IgptError, reason_of

FAISS = "'igpt[cpu]' (or 'igpt[gpu]' on a machine with CUDA)"  # what brings faiss


def optional_library(module: str, user: str, packages: str) -> Any:
    """The imported module. `user` says what needs it, `packages` what pip installs.

    Raises :class:`IgptError` if it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        library = module.partition(".")[0]
        raise IgptError(f"{user} needs {library}, which is not installed: pip install {packages}.") from None


@contextmanager
def library_errors(problem: str, advice: str) -> Iterator[None]:
    """Raise any error of the block as an :class:`IgptError` of one sentence: problem, reason, advice."""
    try:
        yield
    except Exception as error:  # such libraries raise errors of many types, also those of libraries below them
        raise IgptError(f"{problem} ({reason_of(error)}); {advice}.") from None
