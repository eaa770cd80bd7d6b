"""Progress of long operations: a bar on a terminal; elsewhere a line in the log from time to time."""

from __future__ import annotations

import atexit
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import suppress
from types import TracebackType
from typing import TypeVar

import rich
import rich.progress
from rich.progress import BarColumn, ProgressColumn, TextColumn
from rich.text import Text

from igpt.cluster.ranks import is_main_process
from igpt.units import time_text

log = logging.getLogger(__name__)

T = TypeVar("T")

BAR_AFTER, BAR_EVERY = 1.0, 0.5  # seconds; shorter operations show no bar
LINE_AFTER, LINE_EVERY = 7.0, 30.0


class Progress:
    """The progress of one operation: `done` of `total` units (None: unknown). A context manager.

    It is shown only once the operation has taken a while. `text` gives additional text whenever progress is shown. Only
    the main process shows progress. Operations may be nested; on a terminal they share one display. A console that
    disappears is no error.
    """

    def __init__(
        self,
        description: str,
        total: float | None = None,
        done: float = 0,
        text: Callable[[], str] | None = None,
        line_every: float = LINE_EVERY,
    ) -> None:
        self.description, self.total, self.done, self.text = description, total, done, text
        self._first, self._begin = done, time.monotonic()
        self._row: _Row | None = None
        self._on_terminal = rich.get_console().is_terminal
        self._every = BAR_EVERY if self._on_terminal else line_every
        self._due = self._begin + (BAR_AFTER if self._on_terminal else LINE_AFTER)
        if not is_main_process():
            self._due = float("inf")

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def advance(self, n: float = 1) -> None:
        """Count `n` more units as done."""
        self.update(self.done + n)

    def update(self, done: float) -> None:
        """Set the number of units that are done."""
        self.done = done
        now = time.monotonic()
        if now >= self._due:
            self._due = now + self._every
            try:
                self._show()
            except OSError:  # the terminal is gone
                self._due = float("inf")

    def close(self) -> None:
        """End the display, whether or not the operation is complete."""
        if self._row is not None:
            with suppress(OSError):
                self._row.remove()
            self._row = None

    def summary(self) -> str:
        """The fraction that is done and the time left, as far as they are known."""
        if not self.total:
            return f"{self.done:,.0f} so far"
        return ", ".join((f"{self.done / self.total:.0%}", *self.time_left()))

    def time_left(self) -> tuple[str, ...]:
        """The time left at the mean speed so far, as text; empty if it is unknown, and at the end."""
        if not self.total or not self._first < self.done < self.total:
            return ()
        seconds = (time.monotonic() - self._begin) / (self.done - self._first) * (self.total - self.done)
        return (f"{time_text(math.ceil(seconds))} left",)

    def _show(self) -> None:
        text = self.text() if self.text else ""
        if not self._on_terminal:
            log.info("%s: %s%s", self.description, self.summary(), text and f"; {text}")
            return
        if self._row is None:
            self._row = _Row(self.description, self.total, self._first)
        self._row.update(self.done, f"{self.summary()}  {text}")


def track(items: Iterable[T], description: str, total: float | None = None) -> Iterator[T]:
    """Yield the items while showing progress; `total` defaults to their length, if they have one."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with Progress(description, total) as progress:
        for item in items:
            yield item
            progress.advance()


class _Row:
    """One line of the display that all bars share, because rich allows one display at a time."""

    display: rich.progress.Progress | None = None
    lock = threading.Lock()

    def __init__(self, description: str, total: float | None, done: float) -> None:
        with _Row.lock:
            if _Row.display is None:
                columns = (TextColumn("[bold]{task.description}"), BarColumn(10), _TruncatedText())
                display = rich.progress.Progress(*columns, console=rich.get_console(), transient=True)
                display.start()
                _Row.display = display
            self._rows = _Row.display
            self._row = self._rows.add_task(description, total=total, completed=int(done), text="")

    def update(self, done: float, text: str) -> None:
        self._rows.update(self._row, completed=done, text=text)

    def remove(self) -> None:
        with _Row.lock:
            self._rows.remove_task(self._row)
            if not self._rows.task_ids:
                _Row.display = None
                self._rows.stop()


class _TruncatedText(ProgressColumn):
    """The text after a bar, truncated to the width of the terminal."""

    def render(self, task: rich.progress.Task) -> Text:
        return Text(task.fields["text"], no_wrap=True, overflow="ellipsis")


@atexit.register
def _restore_terminal() -> None:
    """Remove a bar that was not closed: after an error, the traceback may keep the loop alive."""
    if _Row.display is not None:
        with suppress(OSError):
            _Row.display.stop()
