"""The run directory: where everything of one training run lies, which run that is, and how to go on with it."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from igpt.errors import IgptError


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
    def best(self) -> Path:
        return self.path / "checkpoints" / "best.ckpt"

    @property
    def palette(self) -> Path:
        return self.path / "palette.npz"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.csv"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    @property
    def figures(self) -> Path:
        return self.path / "figures"

    def tracking_id(self) -> str:
        """One id for the trackers (W&B) however often the run is interrupted; made at the first call."""
        file = self.path / "tracking_id.txt"
        if not file.exists():
            file.write_text(f"{uuid.uuid4().hex[:10]}\n")
        return file.read_text().strip()


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
    candidates = {"best": (directory.best, directory.last), "last": (directory.last,)}
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
    rest = [a for a in argv if not a.startswith("run=")]
    where = ["--config-path", str(directory / ".hydra"), "--config-name", "config"]
    # What Hydra itself does is not part of the stored configuration, so it is said again.
    logging = ["hydra.searchpath=[pkg://igpt.conf]", "hydra/job_logging=igpt", "hydra.job.name=train"]
    return [*where, *rest, *logging, f"hydra.run.dir={_quoted(directory)}"]


def resume_command(run: RunDirectory) -> str:
    """What a person types to go on with a run."""
    return f"{Path(sys.argv[0]).name} run={run.path}"


def _quoted(path: Path) -> str:
    """A path as a Hydra override's value, whatever characters it has."""
    return "'" + str(path).replace("'", r"\'") + "'"
