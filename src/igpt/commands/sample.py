"""igpt-sample: pictures drawn by a trained model, from nothing and from the first part of given images."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from igpt.configuration.app import plain, run_app
from igpt.errors import IgptError

if TYPE_CHECKING:
    import torch

    from igpt.figures import Images
    from igpt.pretrained import Pretrained


def main() -> None:
    """The console script."""
    run_app(sample, "sample")


def sample(config: DictConfig) -> None:
    """Draw samples and completions; write PNG grids, and the pictures as arrays."""
    import numpy as np

    from igpt import figures
    from igpt.commands.open_run import load_model
    from igpt.files import atomic_path

    output = output_folder(config)
    pretrained = load_model(config)
    how: dict[str, Any] = {"seed": config.seed, **plain(config.sampling)}
    how["cache_dtype"] = cache_dtype(config.sampling.cache_dtype)
    pictures, arrays = {}, {}
    if config.completions > 0:
        arrays["originals"] = images_to_complete(config, pretrained)  # first, since it may be refused
    if config.n > 0:
        arrays["samples"] = pretrained.sample(config.n, **how)
        pictures["samples"] = figures.grid(arrays["samples"])
    if config.completions > 0:
        arrays["completions"] = pretrained.complete(arrays["originals"], config.completions, config.given, **how)
        given = pretrained.given_mask(config.given)
        pictures["completions"] = figures.completion_figure(arrays["originals"], arrays["completions"], given)

    for name, picture in pictures.items():
        figures.save(picture, output / f"{name}.png")
    with atomic_path(output / "arrays.npz") as temporary:
        np.savez_compressed(temporary, **arrays)  # type: ignore[arg-type]
    print(f"Results are in {output}: {', '.join(f'{name}.png' for name in pictures)}, arrays.npz")


def output_folder(config: DictConfig) -> Path:
    """Where the images go: the folder that is asked for, or a new one in the run directory."""
    from igpt.files import expand_user
    from igpt.run_directory import find_run

    if config.output is None:
        return find_run(config.run).path / "drawn" / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    output = expand_user(config.output)
    if output.exists() and not output.is_dir():
        raise IgptError(f"output is {output}, which is a file; give a folder.")
    return output


def cache_dtype(name: str | None) -> torch.dtype | None:
    """The precision of keys and values by its name; None is that of the weights."""
    import torch

    return None if name is None else getattr(torch, name)


def images_to_complete(config: DictConfig, pretrained: Pretrained) -> Images:
    """The image files the configuration names, or test images of the run's own data."""
    from igpt.commands.open_run import data_of_run
    from igpt.configuration.class_names import class_number
    from igpt.data.image_input import read_images

    if config.images is None:
        data = data_of_run(config.run, pretrained)
        label = class_number(config.image_class, data.source.classes, "image_class")
        return data.splits["test"].choose(config.n_images, label)
    paths = config.images if isinstance(config.images, str) else list(config.images)
    return read_images(paths, pretrained.resolution)


if __name__ == "__main__":
    main()
