"""The run directory: where everything of one training run lies, which run that is, and how it is resumed."""

from __future__ import annotations

import json
import logging
import shlex
import uuid
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from igpt.errors import IgptError
from igpt.files import atomic_path, expand_user

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunDirectory:
    """Paths inside a run directory; docs/architecture.md describes the layout."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / ".hydra" / "config.yaml"

    @property
    def resumed_config(self) -> Path:
        """The configuration with what later resumes changed, if they did; `config` stays what the run began with."""
        return self.path / ".hydra" / "resumed.yaml"

    @property
    def changes(self) -> Path:
        """Each change of the configuration, with the step from which on it holds."""
        return self.path / ".hydra" / "changes.yaml"

    @property
    def lock(self) -> Path:
        """There while a process trains the run; says which."""
        return self.path / "train.lock"

    @property
    def trained(self) -> bool:
        """Whether there is a checkpoint: something to lose."""
        return any(path.exists() for path in (self.last, self.previous, self.best))

    @property
    def last(self) -> Path:
        return self.path / "checkpoints" / "last.ckpt"

    @property
    def previous(self) -> Path:
        """The checkpoint before the last one, in case that one is damaged."""
        return self.path / "checkpoints" / "previous.ckpt"

    @property
    def best(self) -> Path:
        return self.path / "checkpoints" / "best.ckpt"

    @property
    def palette(self) -> Path:
        return self.path / "palette.npz"

    @property
    def data(self) -> Path:
        """What it is trained on; see :mod:`igpt.data.provenance`."""
        return self.path / "data.jsonl.gz"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.csv"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    @property
    def figures(self) -> Path:
        return self.path / "figures"

    def job(self) -> dict[str, Any]:
        """What job.json says of this run as a job of a sweep; nothing, if it is none."""
        return read_job(self.path)

    def note_job(self, **values: Any) -> None:
        """Add to job.json, or change it."""
        write_job(self.path, **{**self.job(), **values})

    @property
    def has_tracking_id(self) -> bool:
        """Whether trackers know this run."""
        return (self.path / "tracking_id.txt").exists()

    def tracking_id(self, chosen: str | None = None) -> str:
        """One id for the trackers (W&B) however often the run is interrupted; at the first call made, or `chosen`."""
        file = self.path / "tracking_id.txt"
        if not file.exists():
            file.write_text(f"{chosen or uuid.uuid4().hex[:10]}\n")
        return file.read_text().strip()

    def recover_last(self) -> None:
        """Put the previous checkpoint in the place of a last one that is damaged or missing, and say so.

        Any number of processes may do this at once.
        """
        if is_whole(self.last) or not (self.last.exists() or self.previous.exists()):
            return
        with FileLock(self.path / "checkpoints" / ".recover.lock"):
            if is_whole(self.last):
                return  # another process was quicker
            if not is_whole(self.previous):
                raise IgptError(
                    f"{self.last} is damaged, and there is no whole {self.previous.name} beside it; delete both to "
                    "train this run from its beginning."
                )
            damaged = self.last.with_name("damaged.ckpt")
            if self.last.exists():
                self.last.replace(damaged)
            self.previous.replace(self.last)
            log.warning("%s was damaged (it is now %s); going on from the one before.", self.last, damaged.name)


def read_job(folder: Path) -> dict[str, Any]:
    """The job.json of a folder; empty if there is none."""
    file = folder / "job.json"
    return dict(json.loads(file.read_text())) if file.exists() else {}


def write_job(folder: Path, **values: Any) -> None:
    """Write how a job stands, whole or not at all."""
    with atomic_path(folder / "job.json") as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n")


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint file is there from its first byte to its last, by the checksums inside it."""
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile, EOFError, NotImplementedError, zlib.error):
        return False


def find_run(run: str | Path) -> RunDirectory:
    """The run directory that `run` names: itself, or the one that a checkpoint file lies in."""
    if not str(run).strip():
        raise IgptError("run= names nothing; write the folder right behind the =.")
    path = expand_user(run)
    if not path.exists():
        raise IgptError(f"There is no run at {path}; give a run directory or a checkpoint file.")
    if path.is_file() and path.suffix != ".ckpt":
        raise IgptError(f"{path} is not a checkpoint file (.ckpt); give a run directory or one of its checkpoints.")
    return RunDirectory(path.parent.parent if path.is_file() else path)


def find_checkpoint(run: str | Path, prefer: str = "best") -> Path:
    """The checkpoint that `run` names: itself, or the preferred one (best or last) of a run directory."""
    directory = find_run(run)
    if expand_user(run).is_file():
        return expand_user(run)
    last = (directory.last, directory.previous)
    candidates = {"best": (directory.best, *last), "last": last}
    if prefer not in candidates:
        raise IgptError(f"checkpoint is '{prefer}'; choose one of {', '.join(candidates)}.")
    for path in candidates[prefer]:
        if path.exists():
            return path
    raise IgptError(
        f"{directory.path} has no checkpoint (looked for {' and '.join(str(p) for p in candidates[prefer])}); "
        "is it a run directory, and did its training get as far as saving one?"
    )


def find_run_to_resume(run: str) -> RunDirectory:
    """The run directory to resume, with every link in its path resolved.

    A checkpoint other than the last one is refused: metrics.csv and last.ckpt would contradict what follows it.
    """
    directory = RunDirectory(find_run(run).path.resolve())
    file = expand_user(run)
    if file.is_file() and file.resolve() != directory.last.resolve():
        raise IgptError(
            f"{run} is not the last checkpoint of its run; resume the run with run={directory.path}, or begin a new "
            f"one from these weights with init_from={run}."
        )
    if not directory.config.exists():
        find_checkpoint(directory.path, "last")
        raise IgptError(f"{directory.path} has no .hydra/config.yaml, so it cannot be resumed; it is no run directory.")
    return directory


def resume_command(run: RunDirectory) -> str:
    """What a person types to resume a run."""
    return f"igpt-train {shlex.quote(f'run={run.path}')}"
