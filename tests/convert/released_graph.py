"""The graph of OpenAI's release: random weights under its names and in its shapes, and its logits, in numpy alone."""

from typing import NamedTuple

import numpy as np


class Shape(NamedTuple):
    n_layer: int
    n_head: int
    n_embd: int
    n_vocab: int
    n_ctx: int
    bert: bool


SMALL = Shape(n_layer=2, n_head=2, n_embd=8, n_vocab=17, n_ctx=64, bert=False)
MODEL_S = Shape(n_layer=2, n_head=8, n_embd=512, n_vocab=512, n_ctx=1024, bert=False)  # the release's has 24 layers


def random_weights(shape: Shape, seed: int = 0) -> dict[str, np.ndarray]:
    """float32 weights, of a size with which every part of the graph matters; gains are near 1."""
    random = np.random.RandomState(seed)  # whose numbers never change
    n, per_head = shape.n_embd, (shape.n_head, shape.n_embd // shape.n_head, shape.n_embd)

    def matrix(*size):
        return random.standard_normal(size) / np.sqrt(n)

    weights = {"wte": matrix(shape.n_vocab, n), "wtet": matrix(shape.n_vocab, n), "wpe": matrix(shape.n_ctx, n)}
    if not shape.bert:
        weights["sos"] = matrix(n)
    for i in range(shape.n_layer):
        for name in ("q_proj", "k_proj", "v_proj", "c_proj"):
            weights[f"h{i}/attn/{name}"] = matrix(*per_head)
        weights[f"h{i}/mlp/c_fc/w"] = matrix(n, 4 * n)
        weights[f"h{i}/mlp/c_proj/w"] = matrix(4 * n, n)
        for norm in ("ln_1", "ln_2"):
            weights[f"h{i}/{norm}/g"] = 1 + matrix(n)
    weights["ln_f/g"] = 1 + matrix(n)
    return {f"model/{name}": weight.astype(np.float32) for name, weight in weights.items()}


def logits(shape: Shape, weights: dict[str, np.ndarray], tokens: np.ndarray, masked: np.ndarray) -> np.ndarray:
    """Logits (B, T, V), in double precision, of tokens (B, T). `masked` (B, T) counts for the masked model only."""
    w = {name.removeprefix("model/"): weight.astype(np.float64) for name, weight in weights.items()}
    h = w["wte"][tokens]
    if shape.bert:
        h = np.where(masked[..., None], 0, h)
    else:
        h = np.concatenate([np.broadcast_to(w["sos"], (len(h), 1, shape.n_embd)), h[:, :-1]], axis=1)
    h = h + w["wpe"]
    for i in range(shape.n_layer):
        part = {name.removeprefix(f"h{i}/"): weight for name, weight in w.items() if name.startswith(f"h{i}/")}
        h = h + attention(norm(h, part["ln_1/g"]), part, shape.bert)
        inner = norm(h, part["ln_2/g"]) @ part["mlp/c_fc/w"]
        h = h + (inner / (1 + np.exp(-1.702 * inner))) @ part["mlp/c_proj/w"]
    return norm(h, w["ln_f/g"]) @ w["wtet"].T


def norm(x, gain):
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-5) * gain


def attention(x, part, bert):
    q, k, v = (np.einsum("btf,hef->bhte", x, part[f"attn/{name}_proj"]) for name in "qkv")
    scores = np.einsum("bhte,bhse->bhts", q, k) / np.sqrt(q.shape[-1])
    if not bert:
        later = np.triu(np.ones(scores.shape[-2:], bool), 1)
        scores = np.where(later, -np.inf, scores)
    chance = np.exp(scores - scores.max(axis=-1, keepdims=True))
    chance /= chance.sum(axis=-1, keepdims=True)
    heads = np.einsum("bhts,bhse->bhte", chance, v)
    return np.einsum("bhte,hef->btf", heads, part["attn/c_proj"])
