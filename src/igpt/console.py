"""Console output: log lines, tables, and streams whose reader may disappear."""

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
    """Prints log records above a live progress bar; lines are never wrapped or colored."""

    def emit(self, record: logging.LogRecord) -> None:
        rich.get_console().print(self.format(record), markup=False, highlight=False, soft_wrap=True)


class TolerantStream:
    """A stream whose reader may disappear (`| head`, a closed terminal): output that cannot be written is dropped."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with self._ignoring_errors():
            self._stream.write(self._encodable(text))
        return len(text)

    def flush(self) -> None:
        with self._ignoring_errors():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _encodable(self, text: str) -> str:
        """The text, with escapes for characters that the stream cannot encode."""
        encoding = self._stream.encoding or "utf-8"
        return text.encode(encoding, "backslashreplace").decode(encoding)

    @contextmanager
    def _ignoring_errors(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError:
            pass  # a signal handler writes while another write is in progress
        except (OSError, ValueError):
            with suppress(OSError, ValueError):  # else flushing the buffer at exit would fail
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


@contextmanager
def tolerant_console() -> Iterator[None]:
    """Within this block, the readers of stdout and stderr may disappear."""
    original = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (stream and TolerantStream(stream) for stream in original)  # type: ignore[assignment]
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        sys.stdout, sys.stderr = original


def table_text(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table as plain text that suits a terminal, a pipe and a log: no colors, no frame, no value truncated."""
    table = Table(*columns, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for row in rows:
        table.add_row(*row)
    # This console only renders. It must not interpret [brackets] or :colons: in the cells.
    console = Console(
        file=io.StringIO(), width=ANY_WIDTH, color_system=None, markup=False, emoji=False, highlight=False
    )
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())
