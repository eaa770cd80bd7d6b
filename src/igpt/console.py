"""What a person sees while a command runs, which goes on when nobody looks any more."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TextIO

import rich
from rich.console import Console
from rich.table import Table

ANY_WIDTH = 1_000_000  # characters; wider than any table


class ConsoleHandler(logging.Handler):
    """Prints through rich's console, which knows where a live bar stands; lines are never wrapped or colored."""

    def emit(self, record: logging.LogRecord) -> None:
        rich.get_console().print(self.format(record), markup=False, highlight=False, soft_wrap=True)


class LastingStream:
    """A stream whose reader may go away (`| head`, a closed terminal): what it can no longer show is dropped."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with self._while_it_lasts():
            self._stream.write(self._showable(text))
        return len(text)

    def flush(self) -> None:
        with self._while_it_lasts():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _showable(self, text: str) -> str:
        """The text, with escapes for characters that the stream has no code for."""
        encoding = self._stream.encoding or "utf-8"
        return text.encode(encoding, "backslashreplace").decode(encoding)

    @contextmanager
    def _while_it_lasts(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError:
            pass  # a signal's handler has something to say in the middle of another line
        except (OSError, ValueError):
            with suppress(OSError, ValueError):  # what is in its buffer would be an error at the end
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


@contextmanager
def lasting_console() -> Iterator[None]:
    """Inside of this block, whoever reads stdout and stderr may go away."""
    found = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (stream and LastingStream(stream) for stream in found)  # type: ignore[assignment]
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        sys.stdout, sys.stderr = found


def table_text(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of texts as plain lines, for a terminal, a pipe or a log alike: no colors, no frame, nothing cut off."""
    table = Table(*columns, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for row in rows:
        table.add_row(*row)
    # The console only renders: it knows no terminal, and takes [brackets] and :colons: as they are.
    console = Console(
        file=io.StringIO(), width=ANY_WIDTH, color_system=None, markup=False, emoji=False, highlight=False
    )
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())
