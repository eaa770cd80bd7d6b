"""train.log: nothing is written to it before it is known that the run goes on."""

from __future__ import annotations

import logging
from pathlib import Path


class LogFile(logging.FileHandler):
    """A log file that holds its lines back until :meth:`open_now`, and is not even created before."""

    def __init__(self, filename: str) -> None:
        super().__init__(Path(filename), encoding="utf-8", errors="backslashreplace", delay=True)
        self._held: list[logging.LogRecord] | None = []

    def emit(self, record: logging.LogRecord) -> None:
        if self._held is None:
            super().emit(record)
        else:
            self._held.append(record)

    def open_now(self) -> None:
        """Write what was held back, and everything that follows."""
        held, self._held = self._held or [], None
        for record in held:
            self.handle(record)


def open_log_files() -> None:
    """Open all log files of this process."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, LogFile):
            handler.open_now()
