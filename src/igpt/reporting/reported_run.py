"""A run in a report."""

from __future__ import annotations

from collections.abc import Sequence

from igpt.files import printable
from igpt.run_directory import RunDirectory
from igpt.stored_run import StoredRun


class ReportedRun(StoredRun):
    """A run with a name that is unique in the report, and the overrides in which the jobs of its sweep differ."""

    def __init__(self, name: str, run: RunDirectory, overrides: Sequence[str] = ()) -> None:
        super().__init__(run)
        self.name = name
        self.overrides = overrides

    @property
    def label(self) -> str:
        """The name, with what the run has of its own."""
        return printable(f"{self.name}: {' '.join(self.overrides)}" if self.overrides else self.name)

    @property
    def progress(self) -> str:
        """The steps done, of those planned."""
        planned = self.config.get("trainer", {}).get("max_steps")
        return f"{self.steps:,} of {planned:,}" if isinstance(planned, int) and planned > 0 else f"{self.steps:,}"
