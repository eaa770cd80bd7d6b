"""The run directory: the paths of all files of one training run, and finding it again."""

from __future__ import annotations

import re
import shlex
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from igpt.errors import IgptError
from igpt.files import expand_user, read_json, write_json
from igpt.registry import advice, is_model_name

WANDB = "wandb:"  # begins the name of a W&B artifact as a run


@dataclass(frozen=True)
class RunDirectory:
    """Paths inside a run directory; docs/architecture.md describes the layout."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / ".hydra" / "config.yaml"

    @property
    def resumed_config(self) -> Path:
        """The configuration with the changes of later resumes, if any; `config` is what the run began with."""
        return self.path / ".hydra" / "resumed.yaml"

    @property
    def changes(self) -> Path:
        """Each change of the configuration, with the first step that it applies to."""
        return self.path / ".hydra" / "changes.yaml"

    @property
    def lock(self) -> Path:
        """Exists while a process trains the run, and names that process."""
        return self.path / "train.lock"

    @property
    def trained(self) -> bool:
        """Whether there is a checkpoint, so that something could be lost."""
        return any(path.exists() for path in (self.last, self.previous, self.best))

    @property
    def last(self) -> Path:
        return self.path / "checkpoints" / "last.ckpt"

    @property
    def previous(self) -> Path:
        """The checkpoint before the last one, in case the last one is damaged."""
        return self.path / "checkpoints" / "previous.ckpt"

    @property
    def best(self) -> Path:
        return self.path / "checkpoints" / "best.ckpt"

    @property
    def palette(self) -> Path:
        return self.path / "palette.npz"

    @property
    def data(self) -> Path:
        """Which images the run is trained on; see :mod:`igpt.data.provenance`."""
        return self.path / "data.jsonl.gz"

    @property
    def environment(self) -> Path:
        """Each start of training with the code, the packages and the device; see :mod:`igpt.run_environment`."""
        return self.path / "environment.json"

    @property
    def probe(self) -> Path:
        """What igpt-probe writes."""
        return self.path / "probe"

    @property
    def probe_lock(self) -> Path:
        """Exists while a process probes the run, and names that process."""
        return self.path / "probe.lock"

    @property
    def features(self) -> Path:
        """Features that igpt-probe stores."""
        return self.path / "features"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.csv"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    @property
    def error(self) -> Path:
        """The error that ended training; there is none if training goes on, or was stopped."""
        return self.path / "error.txt"

    @property
    def figures(self) -> Path:
        return self.path / "figures"

    def job(self) -> dict[str, Any]:
        """The content of job.json, if this run is a job of a sweep; otherwise empty."""
        return read_job(self.path)

    def note_job(self, **values: Any) -> None:
        """Set values in job.json."""
        write_job(self.path, **{**self.job(), **values})

    @property
    def has_tracking_id(self) -> bool:
        """Whether trackers know this run."""
        return (self.path / "tracking_id.txt").exists()

    def tracking_id(self, chosen: str | None = None) -> str:
        """The id for trackers (W&B), always the same: `chosen` at the first call, or a random one."""
        file = self.path / "tracking_id.txt"
        if not file.exists():
            file.write_text(f"{chosen or uuid.uuid4().hex[:10]}\n")
        return file.read_text().strip()


def read_job(folder: Path) -> dict[str, Any]:
    """The job.json of a folder; empty if there is none."""
    return dict(read_json(folder / "job.json"))


def write_job(folder: Path, **values: Any) -> None:
    """Write the status of a job, whole or not at all."""
    write_json(values, folder / "job.json")


def find_run(run: str | Path) -> RunDirectory:
    """The run directory that `run` names: itself, or the one that a checkpoint file lies in. Results of a TensorFlow
    checkpoint have their place in its folder.

    Results of a model by name, of igpt's table, the Hugging Face Hub or W&B, have theirs below outputs/, which need not
    exist.
    """
    if not str(run).strip():
        raise IgptError("run= names nothing; write the folder directly after the =.")
    if is_wandb_name(run):
        return RunDirectory(Path("outputs", *artifact_name(run)))
    if is_model_name(run) or is_hub_name(run):
        return RunDirectory(Path("outputs", *str(run).split("/")))
    path = expand_user(run)
    if (index := tensorflow_index(path)) is not None:
        return RunDirectory(index.parent)
    if not path.exists():
        raise IgptError(f"There is no run at {path}; {advice(run)}")
    if path.is_file() and path.suffix != ".ckpt":
        raise IgptError(f"{path} is not a checkpoint file (.ckpt); give a run directory or one of its checkpoints.")
    return run_of(path) if path.is_file() else RunDirectory(path)


def tensorflow_index(path: Path) -> Path | None:
    """The index file of the TensorFlow checkpoint that a path names, with or without the ending .index, if any."""
    index = path if path.suffix == ".index" else Path(f"{path}.index")
    return index if index.is_file() else None


def is_hub_name(run: str | Path) -> bool:
    """Whether `run` is the name of a model on the Hugging Face Hub, OWNER/NAME, and neither a path nor beside one."""
    return re.fullmatch(r"[\w.-]*\w/\w[\w.-]*", str(run)) is not None and not Path(run).parent.exists()


def is_wandb_name(run: str | Path) -> bool:
    """Whether `run` is meant as the name of an artifact in W&B."""
    return str(run).startswith(WANDB)


def artifact_name(run: str | Path) -> tuple[str, str, str, str]:
    """Entity, project, name and alias of the artifact wandb:ENTITY/PROJECT/NAME:ALIAS; the alias may be left out."""
    found = re.fullmatch(rf"{WANDB}([^/:]+)/([^/:]+)/([^/:]+)(?::([^/:]+))?", str(run))
    if found is None or {".", ".."} & set(found.groups()):
        raise IgptError(f"{run} is no artifact of W&B; write {WANDB}ENTITY/PROJECT/NAME:ALIAS, as its page shows it.")
    entity, project, name, alias = found.groups()
    return entity, project, name, alias or "latest"


def run_of(checkpoint: Path) -> RunDirectory:
    """The run directory that a checkpoint file lies in."""
    return RunDirectory(checkpoint.parent.parent)


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
        "check that it is a run directory whose training has saved a checkpoint."
    )


def find_run_to_resume(run: str) -> RunDirectory:
    """The run directory to resume, with all links in its path resolved.

    Any checkpoint but the last one is refused, since metrics.csv and last.ckpt are ahead of it.
    """
    if is_model_name(run) or is_hub_name(run) or is_wandb_name(run):
        raise IgptError(f"There is no run at {run} to resume; begin one from the model {run} with init_from={run}.")
    directory = RunDirectory(find_run(run).path.resolve())
    file = expand_user(run)
    if file.is_file() and file.resolve() != directory.last.resolve():
        raise IgptError(
            f"{run} is not the last checkpoint of its run; resume the run with run={directory.path}, or begin a new "
            f"one from these weights with init_from={run}."
        )
    if not directory.config.exists():
        find_checkpoint(directory.path, "last")
        raise IgptError(f"{directory.path} has no .hydra/config.yaml, so it cannot be resumed; give a run directory.")
    return directory


def resume_command(run: RunDirectory) -> str:
    """The command that resumes a run."""
    return f"igpt-train {shlex.quote(f'run={run.path}')}"
