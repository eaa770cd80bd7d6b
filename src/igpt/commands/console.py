"""Log lines that go above a progress bar instead of through it."""

from __future__ import annotations

import logging

import rich


class ConsoleHandler(logging.Handler):
    """Prints through rich's console, which knows where a live bar stands; lines are never wrapped or coloured."""

    def emit(self, record: logging.LogRecord) -> None:
        rich.get_console().print(self.format(record), markup=False, highlight=False, soft_wrap=True)
