"""Checkpoint files: what they say about the model beside its weights, and reading them, whole and once."""

from __future__ import annotations

import hashlib
import logging
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from igpt.errors import IgptError, reason_of, some_of
from igpt.files import printable
from igpt.run_directory import RunDirectory

log = logging.getLogger(__name__)

FORMAT = 2  # raised whenever older versions of igpt could not read what is written
KEY = "igpt"  # where a checkpoint has what is ours; everything else in it is Lightning's, except for
AVERAGED = "averaged_weights"  # the average of the weights (igpt.training.callbacks.weight_average), if there is one
WEIGHTS = ("trained", "ema")  # names of the two for commands


@dataclass(frozen=True)
class Description:
    """What `igpt.load` needs beside the weights; no class of ours is named in it.

    Raises :class:`IgptError` for anything but plain values and tensors, since such a checkpoint could not be read.
    """

    model: dict[str, Any]  # a TransformerConfig
    task: dict[str, Any]  # of igpt.objectives.tasks.task_state
    tokenizer: dict[str, Any]  # of igpt.tokenizers.tokenizer_state
    classes: list[str]
    data: dict[str, Any]  # the key of the source of images that the model was trained on
    configuration: dict[str, Any]  # the composed configuration, for people
    commit: str | None  # of the code that trained the model, if that is known

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            for other in _not_plain(value):
                kind = f"{type(other).__module__}.{type(other).__qualname__}"
                raise IgptError(
                    f"The checkpoint's description of the {name} would contain a {kind}, which cannot be read back; "
                    "use plain numbers, texts, lists, dicts, or tensors."
                )


def _not_plain(value: Any) -> Iterator[Any]:
    """The parts of nested dicts, lists and tuples that are neither plain values nor tensors."""
    if type(value) is dict:
        value = (*value.keys(), *value.values())
    if type(value) in (list, tuple):
        for part in value:
            yield from _not_plain(part)
    elif not (type(value) in (str, int, float, bool, type(None)) or isinstance(value, torch.Tensor)):
        yield value


def with_description(checkpoint: Mapping[str, Any], description: Description) -> dict[str, Any]:
    """The content of a checkpoint file: Lightning's state, with a description in the place of its hyperparameters."""
    ours = {"format": FORMAT, "version": version("igpt"), **asdict(description)}
    lightnings = {name: value for name, value in checkpoint.items() if name not in ("hyper_parameters", "hparams_name")}
    return {KEY: ours, **lightnings}


def description_from(ours: Any, path: Path) -> Description:
    """What is ours in a checkpoint, or in the description of an exported model.

    Raises :class:`IgptError` if it is not in our format, or in another version of it.
    """
    if not isinstance(ours, dict) or "format" not in ours:
        raise IgptError(f"{path} is no checkpoint of igpt; give a run directory of igpt-train, or a file in one.")
    if ours["format"] != FORMAT:
        raise IgptError(
            f"{path} has checkpoint format {ours['format']}, which igpt {ours.get('version')} wrote, but igpt "
            f"{version('igpt')} reads format {FORMAT}; use the code that wrote it, or train the model again."
        )
    fields = Description.__dataclass_fields__
    if missing := [name for name in fields if name not in ours]:
        raise IgptError(f"{path} lacks {some_of(missing)}, so it is damaged; get it again.")
    return Description(**{name: ours[name] for name in fields})


class Checkpoint:
    """A checkpoint file that was read: its description, its step, and its content, until that is taken."""

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        """Raises :class:`IgptError` if the content is not in our format, or in another version of it."""
        self.path = path
        self.description = description_from(content.get(KEY), path)
        self.step = int(content["global_step"])
        self._content: dict[str, Any] | None = content

    def chosen(self, weights: str | None) -> str:
        """The name of the weights that `weights` asks for: trained, ema, or, for None, those by which the run chooses
        its best checkpoint.

        Raises :class:`IgptError` if there are none of this name.
        """
        assert self._content is not None
        if weights is None:
            by_average = str(self.description.configuration.get("monitor")).startswith("val_ema/")
            return "ema" if by_average and AVERAGED in self._content else "trained"
        if weights not in WEIGHTS:
            raise IgptError(f"weights is '{weights}'; choose one of {', '.join(WEIGHTS)}.")
        if weights == "ema" and AVERAGED not in self._content:
            raise IgptError(f"{self.path} has no averaged weights; leave out weights=ema, or train with callbacks=ema.")
        return weights

    def weights(self, name: str = "trained") -> dict[str, torch.Tensor]:
        """The state dict of the :class:`~igpt.objectives.objective.Objective`, trained or ema."""
        assert self._content is not None
        weights: dict[str, torch.Tensor] = self._content["state_dict" if name == "trained" else AVERAGED]
        return weights

    def take(self) -> dict[str, Any]:
        """The whole content, which is not kept here any longer, so that its memory is freed when the taker is done."""
        assert self._content is not None
        content, self._content = self._content, None
        return content


def read_checkpoint(path: Path) -> Checkpoint:
    """A checkpoint file that matches its checksums; read without running any code from it.

    Raises :class:`IgptError` if it is damaged, or not in our format.
    """
    checkpoint = _read_if_whole(path)
    if checkpoint is None:
        raise _unreadable(path, "its content does not match its checksums")
    return checkpoint


def read_last(run: RunDirectory) -> Checkpoint | None:
    """The checkpoint from which to resume a run; None if it has none.

    If the last one is damaged or missing, the previous one takes its place. Any number of processes may do this at
    once.
    """
    # In this order: another process may be renaming the previous checkpoint to the last one.
    if not (run.previous.exists() or run.last.exists()):
        return None
    checkpoint = _read_if_whole(run.last)
    if checkpoint is not None:
        return checkpoint
    with FileLock(run.last.with_name(".recover.lock")):
        checkpoint = _read_if_whole(run.last)
        if checkpoint is not None:
            return checkpoint  # another process was quicker
        checkpoint = _read_if_whole(run.previous)
        if checkpoint is None:
            raise IgptError(
                f"{run.last} is damaged, and there is no whole {run.previous.name} beside it; delete both to train "
                "this run from its beginning."
            )
        damaged, found = run.last.with_name("damaged.ckpt"), "missing"
        if run.last.exists():
            run.last.replace(damaged)
            found = f"damaged (it is now {damaged.name})"
        run.previous.replace(run.last)
        checkpoint.path = run.last
    log.warning("%s was %s; resuming from the checkpoint before it.", run.last, found)
    return checkpoint


def is_whole(path: Path) -> bool:
    """Whether a checkpoint file is there from its first byte to its last, by the checksums inside it."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile, EOFError, NotImplementedError, zlib.error):
        return False


def checksum_of(path: Path) -> str:
    """A hash of the checksums inside a checkpoint file, of which no tensor is read."""
    with zipfile.ZipFile(path) as archive:
        parts = [(part.filename.partition("/")[2], part.file_size, part.CRC) for part in archive.infolist()]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def step_of(path: Path) -> int:
    """The step of a checkpoint file, of which no tensor is read."""
    return int(_load(path)["global_step"])


def _read_if_whole(path: Path) -> Checkpoint | None:
    return Checkpoint(path, _load(path)) if is_whole(path) else None


def _load(path: Path) -> dict[str, Any]:
    """The content of a file, whose tensors are mapped, so that checking the file and using it reads it once."""
    can_map = printable(path) == str(path)  # torch maps only files with names in UTF-8
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", mmap=can_map, weights_only=True)
    except Exception as error:  # torch.load raises whatever its readers stumble over
        raise _unreadable(path, reason_of(error)[:120]) from None
    return content


def _unreadable(path: Path, reason: str) -> IgptError:
    return IgptError(
        f"{path} is not a checkpoint of igpt that can be read ({reason}); if it is damaged, use the run's other "
        "checkpoint."
    )
