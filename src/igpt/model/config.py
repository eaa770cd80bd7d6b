"""The transformer's shape, the parts of its blocks by name, and the sizes of the paper. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from igpt.errors import IgptError

# The choices for each part of the network, by name: the class that is made from the TransformerConfig. A new choice is
# one class and one line here. A name with a dot in it is the path of a class outside of igpt.
PARTS: dict[str, dict[str, str]] = {
    "positions": {
        "learned": "igpt.model.transformer.LearnedPositions",
        "none": "igpt.model.variants.NoPositions",
    },
    "norm": {"rms": "igpt.model.transformer.RMSNorm"},
    "attention": {"full": "igpt.model.transformer.Attention"},
    "mlp": {
        "quick_gelu": "igpt.model.transformer.QuickGELU",
        "gelu": "igpt.model.mlps.GELU",
        "relu2": "igpt.model.mlps.ReLU2",
        "swiglu": "igpt.model.mlps.SwiGLU",
    },
}
ROTARY = {"1d": 2, "2d": 4}  # the size of a head must be a multiple of this
SIZES = ("n_layer", "n_head", "n_embd", "vocab_size", "n_positions", "causal")  # what every model has its own of
TRAINING_ONLY = ("zero_init", "dropout", "attention_dropout")  # these do not change what given weights compute


@dataclass(frozen=True)
class TransformerConfig:
    """Everything that determines a :class:`~igpt.model.transformer.Transformer` but its weights.

    `causal` is the one switch between the autoregressive model (start-of-sequence embedding, causal mask) and the
    masked one ("BERT" in the paper: neither). `positions`, `norm`, `attention` and `mlp` are names in :data:`PARTS`,
    or paths of other classes (my_package.my_module.MyClass).

    The rest are choices that the paper does not have, all off by default:

    - `rotary` turns queries and keys by their positions, beside what `positions` adds to the embeddings: "1d" by the
      position in the sequence, "2d" by row and column of the predicted pixel (:class:`igpt.model.rotary.Rotary`).
    - `qk_norm` normalizes queries and keys, head by head.
    - `value_residual` mixes the first block's values into those of every other block, by learnable weights.
    - `value_embedding` lists blocks (from 0; -1 is the last one) to whose values a second embedding of the tokens is
      added, which they share, with a learnable weight for each.
    - `input_shortcut` mixes the input of the first block into that of every other block, by learnable weights.
    - `embedding_norm` normalizes the input of the first block.
    - `logit_softcap` bounds the logits smoothly.
    - `zero_init` starts with blocks that add nothing: the last matrices of attention and MLP are zero.
    - `dropout` is applied to what attention and MLP add, `attention_dropout` to attention weights, in training.
    """

    n_layer: int
    n_head: int
    n_embd: int
    vocab_size: int = 512
    n_positions: int = 1024
    causal: bool = True
    positions: str = "learned"
    norm: str = "rms"
    attention: str = "full"
    mlp: str = "quick_gelu"
    rotary: str | None = None
    qk_norm: bool = False
    value_residual: bool = False
    value_embedding: Sequence[int] = ()
    input_shortcut: bool = False
    embedding_norm: bool = False
    logit_softcap: float | None = None
    zero_init: bool = False
    dropout: float = 0.0
    attention_dropout: float = 0.0

    def __post_init__(self) -> None:
        for name in ("n_layer", "n_head", "n_embd", "vocab_size", "n_positions"):
            if getattr(self, name) < 1:
                raise IgptError(f"model.{name} is {getattr(self, name)}; it must be at least 1.")
        if self.n_embd % self.n_head:
            raise IgptError(
                f"model.n_embd={self.n_embd} cannot be split over model.n_head={self.n_head} heads; "
                "choose a width that is a multiple of the number of heads."
            )
        for kind in PARTS:
            class_path(kind, getattr(self, kind))
        if self.rotary not in (None, *ROTARY):
            raise IgptError(f"model.rotary is {self.rotary}; it must be 1d, 2d or null.")
        if self.rotary is not None and self.head_size % (divisor := ROTARY[self.rotary]):
            raise IgptError(
                f"model.rotary={self.rotary} needs heads of a multiple of {divisor} channels, but they have "
                f"{self.head_size} (model.n_embd={self.n_embd}, model.n_head={self.n_head}); choose fewer heads."
            )
        if not self.causal and self.positions == "none" and self.rotary is None:
            raise IgptError(
                "model.positions is none, so a masked model would not know where a token is; set "
                "model.positions=learned, or model.rotary=2d."
            )
        object.__setattr__(self, "value_embedding", tuple(self.value_embedding))
        for number in self.value_embedding:
            if not -self.n_layer <= number < self.n_layer:
                raise IgptError(f"model.value_embedding has {number}; there are blocks 0 to {self.n_layer - 1}.")
        if self.logit_softcap is not None and self.logit_softcap <= 0:
            raise IgptError(f"model.logit_softcap is {self.logit_softcap}; it must be above 0 or null.")
        for name in ("dropout", "attention_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise IgptError(f"model.{name} is {getattr(self, name)}; it must be at least 0 and below 1.")

    @property
    def other_parts(self) -> dict[str, Any]:
        """The choices that are not the paper's, and change what the network computes."""
        choices = {field.name: field.default for field in fields(self) if field.name not in SIZES + TRAINING_ONLY}
        return {name: getattr(self, name) for name, default in choices.items() if getattr(self, name) != default}

    @property
    def mixes_values(self) -> bool:
        return self.value_residual or bool(self.value_embedding)

    @property
    def head_size(self) -> int:
        return self.n_embd // self.n_head


def class_path(kind: str, name: str) -> str:
    """The path of the class that a part's name stands for. The class need not exist."""
    if name not in PARTS[kind] and "." not in name:
        raise IgptError(f"model.{kind} is {name}; it must be {part_choices(kind)}.")
    return PARTS[kind].get(name, name)


def part_choices(kind: str) -> str:
    """What a part may be, in words."""
    return f"{', '.join(PARTS[kind])} or the path of a class (my_module.MyClass)"


# The sizes s to xl are the paper's (section 3.2; xl's number of heads is not published, 24 gives heads of 128);
# nano and xs are ours, for CPUs. `conf/model/` names the same sizes for the command line, and a test compares the two.
PRESETS: dict[str, dict[str, int]] = {
    "nano": {"n_layer": 6, "n_head": 4, "n_embd": 128},
    "xs": {"n_layer": 8, "n_head": 8, "n_embd": 256},
    "s": {"n_layer": 24, "n_head": 8, "n_embd": 512},
    "m": {"n_layer": 36, "n_head": 8, "n_embd": 1024},
    "l": {"n_layer": 48, "n_head": 16, "n_embd": 1536},
    "xl": {"n_layer": 60, "n_head": 24, "n_embd": 3072},
}
