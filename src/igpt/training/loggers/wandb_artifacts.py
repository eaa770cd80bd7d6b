"""Artifacts in W&B: what a run uses (data, palette, a trained model) and what it makes (checkpoints, probe tables)."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from datetime import timedelta
from functools import wraps
from pathlib import Path
from typing import Any

from igpt.checkpoint import checksum_of, step_of
from igpt.data.packed.layout import MANIFEST, read_manifest
from igpt.errors import reason_of
from igpt.files import all_printable
from igpt.run_directory import RunDirectory, artifact_name, find_run, is_wandb_name
from igpt.tokenizers import Palette

log = logging.getLogger(__name__)

SECONDS, BYTES_PER_SECOND = 30.0, 1e6  # the time that W&B may take for an artifact: this, and more for large ones


def warns_instead(content: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A method of :class:`ArtifactLog` whose failure is a warning that W&B did not take the `content`.

    A later method tries again: a server that was busy when training began may take the checkpoints days later.
    """

    def guard(method: Callable[..., None]) -> Callable[..., None]:
        @wraps(method)
        def guarded(self: ArtifactLog, *arguments: Any) -> None:
            if self._begin() is None:
                return
            try:
                method(self, *arguments)
            except Exception as error:  # of the library, the network or the disk
                log.warning("W&B did not take %s as artifacts (%s).", content, reason_of(error))

        return guarded

    return guard


class ArtifactLog:
    """Logs the artifacts of one W&B run. The main process calls it."""

    def __init__(self, begin: Callable[[], Any]) -> None:
        """`begin` gives W&B's run; None if it cannot begin."""
        self._begin = begin

    @warns_instead("data, palette and model that this run uses")
    def log_inputs(self, folders: Iterable[Path], palette: Path, init_from: str | None) -> None:
        """Log what a training run uses: the folders of its packed data, its palette, if there is one, and the model
        that it starts from. Their names are in its configuration in W&B, too.
        """
        data = [data_artifact(folder) for folder in folders]
        colors = [palette_artifact(palette)] if palette.exists() else []
        names = {
            "data": [each.name for each in data],
            "palette": [each.name for each in colors],
            "init_from": init_from,
        }
        self._begin().config.update({"uses": names}, allow_val_change=True)
        for artifact in (*data, *colors):
            self._use(artifact)
        if init_from is not None:
            self._use_model(init_from)

    @warns_instead("the checkpoints of this run")
    def log_checkpoints(self, run: RunDirectory, uploaded: Sequence[str], days: int | None) -> None:
        """Log the best and the last checkpoint of a run. Those in `uploaded` (best, last) are uploaded, with the other
        files that make a run directory, and W&B deletes them after `days`. Of the others, checksum and size are logged.
        """
        artifact, aliases = checkpoint_artifact(run, uploaded)
        if aliases and days is not None:
            artifact.ttl = timedelta(days=days)
        self._log(artifact, "latest", *aliases)

    @warns_instead("the tables of the probe")
    def log_probe(self, run: RunDirectory, folder: Path, source: str) -> None:
        """Log the tables of a probe of the model `source`, which are in a folder: `run.probe`, or one in it."""
        self._use_model(source)
        run_id = run.tracking_id() if run.has_tracking_id else self._begin().id
        self._log(probe_artifact(folder, "-".join(["probe", run_id, *folder.relative_to(run.probe).parts])), "latest")

    def _use(self, artifact: Any) -> None:
        """Log an artifact, unless W&B has its content already, and record that the run uses it. Offline, W&B cannot
        record the latter.
        """
        run = self._begin()
        self._log(artifact, "latest")
        if _online(run):
            run.use_artifact(artifact)

    def _use_model(self, source: str) -> None:
        """Record that the run uses the model that `source` names, if that is an artifact."""
        run, name = self._begin(), artifact_of(source)
        if name is not None and _online(run):
            with nullcontext() if is_wandb_name(source) else suppress(Exception):  # W&B need not know a run directory
                run.use_artifact(name)

    def _log(self, artifact: Any, *aliases: str) -> None:
        """Log an artifact, and wait until W&B has it."""
        run = self._begin()
        run.log_artifact(artifact, aliases=[*aliases])
        if _online(run):
            artifact.wait(SECONDS + artifact.size / BYTES_PER_SECOND)


def _online(run: Any) -> bool:
    """Whether W&B's run is neither offline nor disabled, as by WANDB_MODE."""
    return not (run.offline or run.disabled)


def artifact_of(run: str) -> str | None:
    """The name in W&B of the artifact that `run` is, or of the checkpoints of a tracked run directory, which W&B need
    not have. None for any other model.
    """
    if is_wandb_name(run):
        *path, name, alias = artifact_name(run)
        return "/".join((*path, f"{name}:{alias}"))
    directory = find_run(run)
    return f"checkpoint-{directory.tracking_id()}:latest" if directory.has_tracking_id else None


def checkpoint_artifact(run: RunDirectory, uploaded: Sequence[str]) -> tuple[Any, list[str]]:
    """The checkpoints of a run, laid out as in its directory; those that are not uploaded as references. Also the names
    of those that are.
    """
    run_id = run.tracking_id()
    found = {name: path for name, path in (("best", run.best), ("last", run.last)) if path.exists()}
    steps = {name: step_of(path) for name, path in found.items()}
    contained = [name for name in found if name in uploaded]
    others = (*run.config.parent.glob("*.yaml"), run.palette, run.data, run.summary) if contained else ()
    artifact = _artifact(f"checkpoint-{run_id}", "model", {"steps": steps})
    for path in (*(found[name] for name in contained), *(path for path in others if path.exists())):
        _contain(artifact, path, str(path.relative_to(run.path)))
    for name in found.keys() - contained:
        path = found[name]
        entry = str(path.relative_to(run.path))
        _refer(artifact, entry, f"igpt-run://{run_id}/{entry}", checksum_of(path), path.stat().st_size)
    return artifact, contained


def probe_artifact(folder: Path, name: str) -> Any:
    """The tables of a probe, which are in a folder."""
    artifact = _artifact(name, "probe", {})
    for path in (*folder.glob("*.csv"), *folder.glob("*.json")):
        _contain(artifact, path)
    return artifact


def data_artifact(folder: Path) -> Any:
    """Packed data: their manifest, and references to their files, with sizes and checksums, but not their bytes. The
    same data are the same version, wherever their files are.
    """
    manifest = read_manifest(folder)
    artifact = _artifact(folder.name, "dataset", {"source": manifest["source"], "shapes": manifest["shapes"]})
    _contain(artifact, folder / MANIFEST)
    for name, file in manifest["files"].items():
        _refer(artifact, name, f"igpt-packed://{folder.name}/{name}", file["sha256"], file["bytes"])
    return artifact


def palette_artifact(path: Path) -> Any:
    """The palette of a run."""
    palette = Palette.load(path)
    artifact = _artifact(f"palette-{palette.vocab_size}-{palette.fingerprint}", "palette", palette.info)
    _contain(artifact, path)
    return artifact


def _artifact(name: str, kind: str, metadata: Mapping[str, Any]) -> Any:
    import wandb  # takes a second, so only where it is used

    return wandb.Artifact(re.sub(r"[^\w.-]+", "-", name)[:128], kind, metadata=all_printable(dict(metadata)))


def _contain(artifact: Any, path: Path, name: str | None = None) -> None:
    """Add a file that is uploaded. Nothing writes to it any more, so W&B need not copy it first."""
    artifact.add_file(str(path.absolute()), name=name or path.name, policy="immutable", skip_cache=True)


def _refer(artifact: Any, name: str, uri: str, checksum: str, n_bytes: int) -> None:
    """Add a file that stays where it is."""
    from wandb.sdk.artifacts.artifact_manifest_entry import ArtifactManifestEntry
    from wandb.sdk.lib.paths import LogicalPath

    artifact.manifest.add_entry(ArtifactManifestEntry(path=LogicalPath(name), ref=uri, digest=checksum, size=n_bytes))
