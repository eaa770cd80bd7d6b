"""train.log, which is not created before the command is known to change the run."""

from __future__ import annotations

import logging
from pathlib import Path


class LogFile(logging.FileHandler):
    """A log file that is created by :meth:`start_writing`; earlier records are kept in memory until then."""

    def __init__(self, filename: str) -> None:
        super().__init__(Path(filename), encoding="utf-8", errors="backslashreplace", delay=True)
        self._pending: list[logging.LogRecord] | None = []

    def emit(self, record: logging.LogRecord) -> None:
        if self._pending is None:
            super().emit(record)
        else:
            self._pending.append(record)

    def start_writing(self) -> None:
        """Create the file, and write the records so far and all that follow."""
        pending, self._pending = self._pending or [], None
        for record in pending:
            self.handle(record)


def open_log_files() -> None:
    """Create the log files of this process."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, LogFile):
            handler.start_writing()
