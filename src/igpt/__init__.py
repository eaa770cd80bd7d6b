"""igpt: generative pre-training from pixels.

    import igpt

    model = igpt.load("emoji-nano")                    # comes with igpt; or a run directory, an exported folder, ...
    model.sample(16)                                   # uint8 (16, R, R, 3)
    model.sample(16, seed=1, sampling=igpt.SamplingConfig(top_p=0.9))
    images = igpt.read_images("holiday/", model.resolution)
    model.complete(images, n=4)                        # (N, 4, R, R, 3), from the upper halves
    model.features(images, layer=3)                    # (N, width)
    model.log_likelihood(images)                       # (N,), nats
    model.classify(images)                             # names of classes, by a fine-tuned model

Input that cannot be used raises `igpt.IgptError` with one sentence. The README describes the commands (`igpt-train` and
others).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from igpt.data.image_input import read_images
    from igpt.errors import IgptError
    from igpt.generation.sampling_config import SamplingConfig
    from igpt.pretrained import Pretrained, load

__version__ = "0.1.0"
__all__ = ["IgptError", "Pretrained", "SamplingConfig", "load", "read_images"]

_MODULES = {
    "IgptError": "errors",
    "Pretrained": "pretrained",
    "SamplingConfig": "generation.sampling_config",
    "load": "pretrained",
    "read_images": "data.image_input",
}


def __getattr__(name: str) -> Any:
    """Import torch only when something needs it, so that `--help` and shell completion stay quick."""
    if name in _MODULES:
        return getattr(import_module(f"igpt.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'igpt' has no attribute '{name}'")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
