"""Models of igpt's own table (:mod:`igpt.registry`): part of igpt, or downloaded at first use."""

from __future__ import annotations

from pathlib import Path

from igpt.registry import FOLDER, MODELS


def folder_of(name: str) -> Path:
    """The folder of a model of the table. Missing files are downloaded into the data folder, and verified there."""
    model = MODELS[name]
    if model.url is None:
        return FOLDER / name
    from igpt.data.sources.downloads import data_root, find_or_download  # imports pooch, which takes a while

    root = data_root() / "models" / name
    for file, checksum in model.files.items():
        find_or_download(file, f"{model.url}{file}", f"sha256:{checksum}", root)
    return root
