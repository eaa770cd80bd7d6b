"""Images without a label (-1), which no classifier or probe uses."""

from __future__ import annotations

from igpt.data.datamodule import ImageDataModule
from igpt.errors import IgptError


def left_out(split: str, n: int, total: int, what: str) -> str:
    """A sentence on images without a label, which `what` leaves out."""
    return f"{n} of {total} {split} images have no label and are left out of {what}"


def check_labeled(data: ImageDataModule, *splits: str) -> None:
    """Raise :class:`IgptError` if a split has no image with a label."""
    for split in splits:
        if not (data.splits[split].labels >= 0).any():
            raise IgptError(
                f"No {split} image of '{data.source.name}' has a label; choose another {split} split, or data whose "
                f"{split} images have labels."
            )
