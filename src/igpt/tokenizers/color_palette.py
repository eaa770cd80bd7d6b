"""The palette: k colors, and a table with the nearest of them for each of the 2^24 colors."""

from __future__ import annotations

import functools
import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from igpt.errors import IgptError
from igpt.files import atomic_path
from igpt.tokenizers.nearest import nearest_table
from igpt.tokenizers.tokenizer import Tokenizer, require_uint8

MAX_SIZE = 4096


class Palette(Tokenizer):
    """An immutable set of k colors; a token is the index of the nearest one (Euclidean, in RGB; ties to the lower).

    `centroids` (k, 3) lie in [0, 255] and need not be whole numbers; decoding rounds them. `info` says where they come
    from and how good they are (source, PSNR in dB, number of distinct colors); it is not part of the fingerprint.
    """

    def __init__(self, centroids: NDArray[np.floating], info: dict[str, Any] | None = None) -> None:
        centroids = np.array(centroids, dtype=np.float32)  # a copy, so that nobody can change it from outside
        if centroids.ndim != 2 or centroids.shape[1] != 3 or not 1 <= len(centroids) <= MAX_SIZE:
            raise IgptError(
                f"A palette must have shape (k, 3) with k from 1 to {MAX_SIZE}; this one has {centroids.shape}."
            )
        if not (np.isfinite(centroids).all() and centroids.min() >= 0 and centroids.max() <= 255):
            raise IgptError("A palette's colors must lie in [0, 255]; this one has values outside.")
        centroids.flags.writeable = False
        self.centroids = centroids
        self.info = dict(info or {})
        self._on_device: dict[tuple[str, torch.device], Tensor] = {}

    def __repr__(self) -> str:
        return f"Palette({self.vocab_size} colors, fingerprint {self.fingerprint})"

    @property
    def vocab_size(self) -> int:
        return len(self.centroids)

    @functools.cached_property
    def fingerprint(self) -> str:
        return hashlib.sha256(self.centroids.tobytes()).hexdigest()[:16]

    @functools.cached_property
    def colors(self) -> NDArray[np.uint8]:
        """The colors that decoding gives, (k, 3)."""
        return np.rint(self.centroids).astype(np.uint8)

    @functools.cached_property
    def table(self) -> NDArray[np.int16]:
        """The token of every color r * 65536 + g * 256 + b; 32 MiB, computed once.

        This takes about a second; several for thousands of nearly equal colors.
        """
        return nearest_table(self.centroids)

    def encode(self, images: Tensor) -> Tensor:
        """Tokens (N, H * W) int64 of uint8 images (N, H, W, 3): one table look-up per pixel, exact on every device."""
        require_uint8(images)
        red, green, blue = images.unbind(-1)  # each (N, H, W)
        color = torch.add(torch.add(blue.int(), green, alpha=2**8), red, alpha=2**16)
        tokens = self._device_copy("table", images.device).index_select(0, color.flatten())  # twice as fast as table[]
        return tokens.view(color.shape).flatten(1).long()

    def decode(self, tokens: Tensor) -> Tensor:
        """uint8 images (N, side, side, 3) of tokens (N, side * side)."""
        return self._device_copy("colors", tokens.device)[self.arrange(tokens).squeeze(-1)]

    def _device_copy(self, name: str, device: torch.device) -> Tensor:
        if (name, device) not in self._on_device:
            array: NDArray[Any] = getattr(self, name)
            self._on_device[name, device] = torch.from_numpy(array.copy()).to(device)
        return self._on_device[name, device]

    def state(self) -> dict[str, Any]:
        return {"centroids": torch.tensor(self.centroids), "info": self.info}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Palette:
        return cls(state["centroids"].numpy(), state["info"])

    def save(self, path: Path) -> None:
        """Write an .npz file without pickled objects: `centroids`, and `info` as JSON."""
        with atomic_path(path) as temporary:
            np.savez(temporary, centroids=self.centroids, info=np.array(json.dumps(self.info)))

    @classmethod
    def load(cls, path: Path) -> Palette:
        """Read an .npz file of :meth:`save`, or OpenAI's file of centroids: .npy, (k, 3) in [-1, 1]."""
        try:
            content = np.load(path, allow_pickle=False)
            if isinstance(content, np.ndarray):
                if np.abs(content).max() > 1:
                    raise IgptError(f"{path} is no file of centroids in OpenAI's format: its values leave [-1, 1].")
                return cls(127.5 * (content.astype(np.float64) + 1), {"source": f"{path.name} (OpenAI's format)"})
            with content:
                return cls(content["centroids"], json.loads(str(content["info"])))
        except FileNotFoundError:
            raise IgptError(f"There is no palette at {path}; check tokenizer.path.") from None
        except OSError as error:
            raise IgptError(f"The palette {path} cannot be read: {error.strerror or error}.") from None
        except (ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile):
            raise IgptError(
                f"{path} is not a palette; give a palette.npz of igpt or a center file in OpenAI's format (.npy)."
            ) from None
