"""Models that are loaded by their name: the table models.json, and the files of those that come with igpt."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from igpt.errors import some_of

FOLDER = Path(__file__).parent  # with a folder for each model that comes with igpt
TABLE = FOLDER / "models.json"


@dataclass(frozen=True)
class NamedModel:
    """A folder with a model, as igpt-export or transformers writes it."""

    files: Mapping[str, str]  # the SHA-256 of each file
    license: str  # an SPDX identifier
    figures: Mapping[str, float]  # of the test, by their names in summary.json
    url: str | None  # of the folder, with a slash at the end; None: the files are part of igpt


MODELS = {name: NamedModel(**entry) for name, entry in json.loads(TABLE.read_text(encoding="utf-8")).items()}


def is_model_name(run: str | Path) -> bool:
    """Whether `run` is the name of a model in the table. A file or folder of the same name is preferred to it."""
    return str(run) in MODELS and not Path(run).exists()


def advice(run: str | Path) -> str:
    """The end of a sentence about a `run` that is neither a path nor a name."""
    if closest := difflib.get_close_matches(str(run), MODELS, n=1):
        return f"did you mean the model {closest[0]}?"
    return f"give a run directory, a checkpoint file, an exported folder or the name of a model ({some_of([*MODELS])})."
