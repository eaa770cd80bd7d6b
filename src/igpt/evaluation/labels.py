"""Images without a label (-1): how many there are, and that they do not count."""

from __future__ import annotations

from igpt.data.datamodule import ImageDataModule
from igpt.errors import IgptError


def left_out(split: str, n: int, total: int, what: str) -> str:
    """A sentence on images that do not count in `what`."""
    return f"{n} of {total} {split} images have no label and are left out of {what}"


def check_labeled(data: ImageDataModule, *splits: str) -> None:
    """IgptError unless some image of each split has a label."""
    for split in splits:
        if not (data.splits[split].labels >= 0).any():
            raise IgptError(
                f"No {split} image of '{data.source.name}' has a label; choose another {split} split, or data whose "
                f"{split} images have labels."
            )
