"""Models of the Hugging Face Hub: download and upload, through the optional library huggingface_hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from igpt.libraries import library_errors, optional_library

ADVICE = "check the name, the network and, for uploads and models that are not public, the token (hf auth login)"
DESCRIPTIONS = ["*.json"]
WEIGHTS = ["*.safetensors"]
TORCH_WEIGHTS = ["*.bin"]


def download(name: str) -> Path:
    """The folder of a model of the Hub (OWNER/NAME), from the Hub's cache on this machine if it is there."""
    hub = _library()
    with library_errors(f"There is no {name} here, and the Hugging Face Hub did not serve it", ADVICE):
        folder = Path(hub.snapshot_download(name, allow_patterns=[*DESCRIPTIONS, *WEIGHTS]))
        if not any(folder.glob(WEIGHTS[0])):
            hub.snapshot_download(name, allow_patterns=[*DESCRIPTIONS, *TORCH_WEIGHTS])
    return folder


def upload(folder: Path, name: str) -> str:
    """Upload an exported folder as the model `name` (OWNER/NAME), which is created if necessary; its address."""
    api = _library().HfApi()
    with library_errors(f"{folder} is written, but the Hugging Face Hub did not take it as {name}", ADVICE):
        address = str(api.create_repo(name, exist_ok=True))
        api.upload_folder(repo_id=name, folder_path=folder)
    return address


def _library() -> Any:
    return optional_library("huggingface_hub", "A model of the Hugging Face Hub", "'igpt[hub]'")
