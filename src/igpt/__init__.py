"""igpt: generative pre-training from pixels.

import igpt
model = igpt.load("outputs/...")
model.sample(16)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from igpt.pretrained import Pretrained, load

__version__ = "0.1.0"
__all__ = ["Pretrained", "load"]


def __getattr__(name: str) -> Any:
    """Import torch only when something needs it, so that `--help` and shell completion stay quick."""
    if name in __all__:
        from igpt import pretrained

        return getattr(pretrained, name)
    raise AttributeError(f"module 'igpt' has no attribute '{name}'")
