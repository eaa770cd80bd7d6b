"""The run directory: where everything of one training run lies, which run that is, and how to go on with it."""

from __future__ import annotations

import json
import logging
import uuid
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from igpt.errors import IgptError
from igpt.files import atomic_path

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunDirectory:
    """Paths inside a run directory; docs/architecture.md describes the layout."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / ".hydra" / "config.yaml"

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
        """What it is trained on; see :mod:`igpt.data.record`."""
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
    path = Path(run).expanduser()
    if not path.exists():
        raise IgptError(f"There is no run at {path}; give a run directory or a checkpoint file.")
    return RunDirectory(path.parent.parent if path.is_file() else path)


def find_checkpoint(run: str | Path, prefer: str = "best") -> Path:
    """The checkpoint that `run` names: itself, or the preferred one (best or last) of a run directory."""
    directory = find_run(run)
    if Path(run).expanduser().is_file():
        return Path(run).expanduser()
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


def resume_arguments(argv: Sequence[str]) -> list[str]:
    """Arguments that go on with a run, from ones that hold `run=<dir>`: Hydra reads the configuration the run began
    with and writes into the same directory. Other arguments override values, as ever. Without `run=`, no change.
    """
    chosen = [a.removeprefix("run=") for a in argv if a.startswith("run=") and a != "run=null"]
    if not chosen:
        return list(argv)
    directory = find_run(chosen[-1]).path.resolve()
    find_checkpoint(directory, "last")
    if not RunDirectory(directory).config.exists():
        raise IgptError(
            f"{directory} has no .hydra/config.yaml, so it cannot be gone on with; it is not a run directory."
        )
    return stored_arguments(directory, [a for a in argv if not a.startswith("run=")])


def stored_arguments(directory: Path, changes: Sequence[str] = ()) -> list[str]:
    """Arguments that run what is stored in a run directory, in it, with other values for what `changes` name."""
    where = ["--config-path", str(directory / ".hydra"), "--config-name", "config"]
    # What Hydra itself does is not part of the stored configuration, so it is said again.
    logging = ["hydra.searchpath=[pkg://igpt.conf]", "hydra/job_logging=igpt", "hydra.job.name=train"]
    return [*where, *changes, *logging, f"hydra.run.dir={_quoted(directory)}"]


def resume_command(run: RunDirectory) -> str:
    """What a person types to go on with a run."""
    return f"igpt-train run={run.path}"


def _quoted(path: Path) -> str:
    """A path as a Hydra override's value, whatever characters it has."""
    return "'" + str(path).replace("'", r"\'") + "'"
