"""Weights under the names and in the layout of transformers' ImageGPT, and back.

There, the start embedding is the last row of the token embedding, and the linear layers of a block ("Conv1D") store the
transposed matrix and have a bias.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Names in a block, igpt's and transformers'.
GAINS = {"attn_norm.gain": "ln_1.weight", "mlp_norm.gain": "ln_2.weight"}
MATRICES = {
    "attn.qkv.weight": "attn.c_attn.weight",
    "attn.out.weight": "attn.c_proj.weight",
    "mlp.fc.weight": "mlp.c_fc.weight",
    "mlp.out.weight": "mlp.c_proj.weight",
}
# Names outside of the blocks, but for the token embedding.
OTHERS = {
    "position_embedding.weight": "transformer.wpe.weight",
    "norm.gain": "transformer.ln_f.weight",
    "head.weight": "lm_head.weight",
}
EMBEDDING = "transformer.wte.weight"


def to_transformers(weights: dict[str, Tensor], n_layer: int) -> dict[str, Tensor]:
    """The weights of an autoregressive :class:`~igpt.model.transformer.Transformer`, without biases."""
    start = weights["start_embedding"]
    renamed = {EMBEDDING: torch.cat([weights["token_embedding.weight"], start[None]])}  # (V + 1, C)
    for ours, theirs in _pairs(n_layer).items():
        renamed[theirs] = _transposed(weights[ours], theirs)
    return renamed


def from_transformers(weights: dict[str, Tensor], n_layer: int) -> dict[str, Tensor]:
    """The inverse of :func:`to_transformers`."""
    embedding = weights[EMBEDDING]
    renamed = {"token_embedding.weight": embedding[:-1], "start_embedding": embedding[-1]}
    for ours, theirs in _pairs(n_layer).items():
        renamed[ours] = _transposed(weights[theirs], theirs)
    return renamed


def bias_names(n_layer: int) -> dict[str, str]:
    """The names of all biases in transformers, with that of the matrix beside each."""
    blocks = range(n_layer)
    matrices = [f"transformer.h.{i}.{theirs}" for i in blocks for theirs in MATRICES.values()]
    return {name.removesuffix("weight") + "bias": name for name in matrices}


def _pairs(n_layer: int) -> dict[str, str]:
    """Igpt's name -> transformers' name."""
    blocks = {
        f"blocks.{i}.{ours}": f"transformer.h.{i}.{theirs}"
        for i in range(n_layer)
        for ours, theirs in {**GAINS, **MATRICES}.items()
    }
    return {**blocks, **OTHERS}


def _transposed(weight: Tensor, name: str) -> Tensor:
    """The weight, transposed if it is a matrix of a block, in either direction."""
    return weight.t() if name.startswith("transformer.h.") else weight  # gains have one dimension and stay as they are
