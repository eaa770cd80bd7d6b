"""Image files below folders, among which links may lead anywhere."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from igpt.data.image_files import is_image_name
from igpt.errors import IgptError
from igpt.progress import track


class FolderWalk:
    """Lists the images below some folders of `root`.

    A link to a folder is followed, but each real folder is entered once, under its own name if it has one in these
    folders; and never a folder that `root`, or one that a link led to before, lies in. `passed_over` names the folders
    that are not entered for this reason.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.passed_over: list[str] = []
        self._begun_in = [root.resolve()]
        self._entered: set[tuple[int, int]] = set()

    def images(self, folders: Sequence[str]) -> dict[str, list[str]]:
        """Paths of all images below each of the `folders` of `root`, relative to that folder and sorted; names with a
        dot in front are passed over.
        """
        found: dict[str, list[str]] = {folder: [] for folder in folders}
        pending = [(str(self.root / folder), folder) for folder in folders]
        while pending:  # all real folders first, so that no link takes a folder's own name away
            pending = sorted(
                (link, folder)
                for path, folder in pending
                if self._may_begin_in(path)
                for link in self._walk(path, found[folder])
            )
        begins = {folder: len(str(self.root / folder)) + len(os.sep) for folder in folders}
        return {folder: sorted(file[begins[folder] :] for file in files) for folder, files in found.items()}

    def _may_begin_in(self, path: str) -> bool:
        target = Path(path).resolve()
        if path != str(self.root) and any(target == begun or target in begun.parents for begun in self._begun_in):
            self.passed_over.append(os.path.relpath(path, self.root))
            return False
        self._begun_in.append(target)
        return True

    def _walk(self, start: str, found: list[str]) -> list[str]:
        """Add the images below a folder to `found`; the links to folders that it has."""
        links = []
        for parent, folders, files in track(
            os.walk(start, onerror=_refuse), "Listing folders"
        ):  # links are not followed
            status = Path(parent).stat()
            if (status.st_dev, status.st_ino) in self._entered:
                self.passed_over.append(os.path.relpath(parent, self.root))
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
