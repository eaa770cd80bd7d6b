"""The report on images that cannot be read."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

from igpt.errors import IgptError
from igpt.files import write_names

log = logging.getLogger(__name__)

REPORT = "unreadable.txt"


def report_unreadable(folder: Path, unreadable: Mapping[str, Mapping[int, str]], total: int, max_share: float) -> None:
    """List images that cannot be read (split -> row -> file and reason) in the folder's unreadable.txt.

    If they are more than the share `max_share` of all `total` images, that is an :class:`IgptError`.
    """
    lines = [reason for rows in unreadable.values() for reason in rows.values()]
    if not lines:
        return
    write_names(folder / REPORT, lines)
    if len(lines) > max_share * total:
        raise IgptError(
            f"{len(lines)} of {total} images cannot be read, more than data.max_unreadable={max_share} allows; all are "
            f"listed in {keep_report(folder)}, the first is {lines[0]}."
        )
    final = folder.with_suffix("") / REPORT  # where it will be once packing is complete
    log.warning("%d of %d images cannot be read and are left out; they are listed in %s", len(lines), total, final)


def keep_report(folder: Path) -> Path:
    """Copy the report beside the unfinished folder, which is deleted if packing fails; return the copy."""
    return Path(shutil.copy(folder / REPORT, folder.with_suffix(f".{REPORT}")))
