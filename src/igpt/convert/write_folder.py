"""Write a model to a folder that other programs, or igpt elsewhere, can read."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from igpt.convert import hugging_face, igpt_folder
from igpt.convert.stored_model import StoredModel
from igpt.errors import IgptError

FORMATS: dict[str, Callable[[StoredModel, Path], None]] = {
    "huggingface": hugging_face.write,
    "igpt": igpt_folder.write,
}
CARD = "README.md"


def write_folder(stored: StoredModel, folder: Path, format_name: str, card: str) -> None:
    """Write the model in one of the FORMATS, and its model card, to a new folder that appears when it is complete."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise IgptError(f"{folder} exists already; choose another output, or delete it.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        FORMATS[format_name](stored, temporary)
        (temporary / CARD).write_text(card, encoding="utf-8")
        temporary.chmod(0o755)  # mkdtemp makes a private folder, and safetensors private files
        for file in temporary.iterdir():
            file.chmod(0o644)
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
