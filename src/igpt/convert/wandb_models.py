"""Models in W&B: artifacts that are downloaded once into the cache, and exported folders that are uploaded as one."""

from __future__ import annotations

import logging
import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

from igpt.errors import IgptError
from igpt.files import atomic_path, cache_root
from igpt.libraries import library_errors
from igpt.run_directory import WANDB, artifact_name
from igpt.wandb_server import NO_KEY, has_key

log = logging.getLogger(__name__)

ADVICE = "check the name, the network and the key"


def download(run: str) -> Path:
    """The folder with the files of the artifact `run` (wandb:ENTITY/PROJECT/NAME:ALIAS), downloaded if the cache lacks
    this version of it. It is laid out as what was uploaded: a run directory, or an exported folder.

    The server is asked which version an alias means; if it cannot be, the last version with this alias that is here is
    used. Of several processes, one downloads while the others wait.
    """
    entity, project, name, alias = artifact_name(run)
    versions = cache_root() / "wandb" / entity / project / name
    if re.fullmatch(r"v\d+", alias) and (versions / alias).is_dir():
        return versions / alias
    note = versions / f"{alias}.txt"  # the version that had this alias
    try:
        with library_errors(f"W&B did not serve {run}", ADVICE):
            artifact = _library().Api().artifact(f"{entity}/{project}/{name}:{alias}")
            folder = _download(artifact, versions / str(artifact.version), run)
    except IgptError as error:
        if not note.exists() or not (versions / note.read_text()).is_dir():
            raise
        log.warning("%s The copy of its version %s that is here is used.", error, note.read_text())
        return versions / note.read_text()
    if not note.exists() or note.read_text() != folder.name:  # the cache may be complete and read-only
        with atomic_path(note) as temporary:
            temporary.write_text(folder.name)
    return folder


def _download(artifact: Any, folder: Path, run: str) -> Path:
    """Download the files of an artifact into a folder, which appears when it is complete."""
    if folder.is_dir():
        return folder
    files = [path for path, entry in artifact.manifest.entries.items() if entry.ref is None]
    if not files:
        raise IgptError(
            "it only records where the files were; logger.wandb.artifacts=[best] uploads the checkpoint of a run"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            log.info("Downloading %s, version %s, to %s", run, folder.name, folder)
            unfinished = folder.with_name(f"{folder.name}.part")
            shutil.rmtree(unfinished, ignore_errors=True)
            for path in files:
                artifact.get_entry(path).download(root=str(unfinished), skip_cache=True)
            unfinished.rename(folder)
    return folder


def upload(folder: Path, name: str, source: str | None = None) -> str:
    """Upload an exported folder as the artifact `name` (wandb:ENTITY/PROJECT/NAME), by a W&B run of its own; its name
    with its version. The run uses the artifact `source`, from which the model came, if W&B has it.
    """
    entity, project, artifact_named, _ = artifact_name(name)
    with library_errors(f"{folder} is written, but W&B did not take it as {name}", ADVICE):
        wandb = _library()
        settings = wandb.Settings(silent=True, console="off")
        with wandb.init(entity=entity, project=project, job_type="export", settings=settings) as run:
            if source is not None:
                with suppress(Exception):  # it may be a run that W&B does not know
                    run.use_artifact(source)
            artifact = wandb.Artifact(artifact_named, "model")
            artifact.add_dir(str(folder))
            run.log_artifact(artifact).wait()
        return f"{WANDB}{artifact.qualified_name}"


def _library() -> Any:
    """The library wandb, if it can be used without asking for a key."""
    import wandb  # takes a second, so only where it is used

    if not has_key():
        raise PermissionError(NO_KEY)
    return wandb
