"""Models of the Hugging Face Hub: download and upload, through the optional library huggingface_hub."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from igpt.errors import IgptError, reason_of

DESCRIPTIONS = ["*.json"]
WEIGHTS = ["*.safetensors"]
TORCH_WEIGHTS = ["*.bin"]


def download(name: str) -> Path:
    """The folder of a model of the Hub (OWNER/NAME), from the Hub's cache on this machine if it is there."""
    with _sentences(f"There is no {name} here, and the Hugging Face Hub did not serve it"):
        hub = _library()
        folder = Path(hub.snapshot_download(name, allow_patterns=[*DESCRIPTIONS, *WEIGHTS]))
        if not any(folder.glob(WEIGHTS[0])):
            hub.snapshot_download(name, allow_patterns=[*DESCRIPTIONS, *TORCH_WEIGHTS])
    return folder


def upload(folder: Path, name: str) -> str:
    """Upload an exported folder as the model `name` (OWNER/NAME), which is created if necessary; its address."""
    with _sentences(f"{folder} is written, but the Hugging Face Hub did not take it as {name}"):
        api = _library().HfApi()
        address = str(api.create_repo(name, exist_ok=True))
        api.upload_folder(repo_id=name, folder_path=folder)
    return address


def _library() -> Any:
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError:
        raise ImportError("it needs the library huggingface_hub: pip install 'igpt[hub]'") from None


@contextmanager
def _sentences(problem: str) -> Iterator[None]:
    """Errors of the library, which may be missing, and of the network below it, as one sentence."""
    try:
        yield
    except Exception as error:  # the library raises errors of many types, also those of other libraries
        raise IgptError(
            f"{problem} ({reason_of(error)}); check the name, the network and, for uploads and models that are "
            "not public, the token (hf auth login)."
        ) from None
