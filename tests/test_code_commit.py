"""The commit in checkpoints is that of igpt's code, and of nothing else."""

import re
import shutil
import subprocess

import pytest

from igpt.checkpoint import read_checkpoint
from igpt.code_commit import code_commit
from igpt.run_directory import RunDirectory


@pytest.fixture
def package(tmp_path):
    """A package in a work tree with one commit."""
    folder = tmp_path / "tree" / "package"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    user = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    for arguments in (["init", "-q"], ["add", "package"], [*user, "commit", "-qm", "first"]):
        subprocess.run(["git", *arguments], cwd=tmp_path / "tree", check=True)
    return folder


def test_a_commit_and_what_has_changed_since(package):
    full = subprocess.run(["git", "rev-parse", "HEAD"], cwd=package, capture_output=True, text=True, check=True).stdout
    assert code_commit(package) == full[:12]
    (package / "__init__.py").write_text("changed")
    assert code_commit(package) == f"{full[:12]}-dirty"


def test_a_copy_that_is_not_under_version_control_has_none(package, tmp_path):
    shutil.copytree(package, package.parent / "venv" / "package")  # in a work tree, but not part of it
    shutil.copytree(package, tmp_path / "elsewhere")
    assert code_commit(package.parent / "venv" / "package") is None
    assert code_commit(tmp_path / "elsewhere") is None


def test_a_checkpoint_says_which_code_trained_it(trained):
    commit = read_checkpoint(RunDirectory(trained).best).description.commit
    assert (commit is None) == (code_commit() is None)
    assert commit is None or re.fullmatch("[0-9a-f]{12}(-dirty)?", commit)
