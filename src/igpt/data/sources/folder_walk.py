"""Listing the image files below folders that may contain links."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from igpt.data.image_files import is_image_name
from igpt.errors import IgptError
from igpt.progress import track


class FolderWalk:
    """Lists the images below some folders of `root`, and enters each real folder once.

    A link to a folder is followed, unless that folder is also found under its own name, or `root` or the target of
    another link lies inside it. `skipped` names the folders that are not entered for one of these reasons.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.skipped: list[str] = []
        self._targets = [root.resolve()]
        self._entered: set[tuple[int, int]] = set()  # device and inode

    def images(self, folders: Sequence[str]) -> dict[str, list[str]]:
        """Paths of all images below each of the `folders` of `root`, relative to that folder and sorted.

        Folders and files whose names begin with a dot are ignored.
        """
        found: dict[str, list[str]] = {folder: [] for folder in folders}
        pending = [(str(self.root / folder), folder) for folder in folders]
        # Links are followed after all real folders, so that a folder is listed under its own name.
        while pending:
            pending = sorted(
                (link, folder)
                for path, folder in pending
                if self._may_follow(path)
                for link in self._walk(path, found[folder])
            )
        prefixes = {folder: len(str(self.root / folder)) + len(os.sep) for folder in folders}
        return {folder: sorted(file[prefixes[folder] :] for file in files) for folder, files in found.items()}

    def _may_follow(self, path: str) -> bool:
        target = Path(path).resolve()
        if path != str(self.root) and any(target == other or target in other.parents for other in self._targets):
            self.skipped.append(os.path.relpath(path, self.root))
            return False
        self._targets.append(target)
        return True

    def _walk(self, start: str, found: list[str]) -> list[str]:
        """Add the images below a folder to `found`; return the links to folders, which are not followed."""
        links = []
        for parent, folders, files in track(os.walk(start, onerror=_refuse), "Listing folders"):
            status = Path(parent).stat()
            if (status.st_dev, status.st_ino) in self._entered:
                self.skipped.append(os.path.relpath(parent, self.root))
                folders.clear()
                continue
            self._entered.add((status.st_dev, status.st_ino))
            folders[:] = [name for name in folders if not name.startswith(".")]
            links += [path for name in folders if Path(path := f"{parent}{os.sep}{name}").is_symlink()]
            found += [f"{parent}{os.sep}{name}" for name in files if is_image_name(name)]
        return links


def _refuse(error: OSError) -> None:
    raise IgptError(
        f"{error.filename} cannot be read ({error.strerror}); change its permissions, or move it elsewhere."
    )
