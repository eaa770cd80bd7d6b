"""The commit of igpt's own code, for checkpoints and model cards."""

from __future__ import annotations

import subprocess
from pathlib import Path


def code_commit(folder: Path = Path(__file__).parent) -> str | None:
    """The commit of the git work tree that the code in `folder` is part of, with "-dirty" if the code, the
    configuration or a recipe has changed since.

    None for an installed copy, also in a virtual environment inside somebody else's work tree, and without git.
    """
    try:
        _git(folder, "ls-files", "--error-unmatch", "__init__.py")  # the code itself is under version control
        changed = _git(folder, "status", "--porcelain", "--", ".", ":/conf", ":/experiments/*.yaml")
        return _git(folder, "rev-parse", "--short=12", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    result = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=10)
    return result.stdout.strip()
