"""The image GPT: a GPT-2 style transformer over color tokens, top to bottom in one file.

Shapes: B images, T positions (H * W with a palette), t of them in one pass, C = n_embd channels, h heads of size d,
V = vocab_size colors, L = n_layer blocks.

The architecture is that of Chen et al. 2020, "Generative Pretraining from Pixels", as it was released: pre-norm
blocks, "layer norms" that are RMS norms with a gain and nothing else, no biases, quick GELU, learned positions, and
an output matrix that is not tied to the input embedding and starts at zero.

What the paper does not have is in :mod:`igpt.model.variants`, `mlps` and `rotary`, and off by default.

The config names the class of each part: positions, norm, attention and MLP (:data:`igpt.model.config.PARTS`). A part is
a module that is made from the config. If it has `init_weights`, the model calls that when its weights are initialized.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from igpt.model import cpu_kernels
from igpt.model.cache import FixedCache, KVCache, LayerCache
from igpt.model.config import TransformerConfig
from igpt.model.parts import make_part
from igpt.model.pooling import averages
from igpt.model.rotary import Rotary
from igpt.model.shared import Shared
from igpt.model.variants import HeadNorm, Mixed, SoftcappedHead, ValueEmbedding, ValueMix


class LearnedPositions(nn.Embedding):
    """x + a learned embedding of each position."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config.n_positions, config.n_embd)

    def init_weights(self) -> None:
        nn.init.normal_(self.weight, std=0.01)

    def forward(self, x: Tensor, at: slice | Tensor) -> Tensor:  # type: ignore[override]
        """Inputs x (B, t, C) at the positions `at`, which index any table with a row per position."""
        return x + self.weight[at]


class RMSNorm(nn.Module):
    """x / rms(x) * gain, over the channels."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(config.n_embd))
        self.eps = 1e-5

    def init_weights(self) -> None:
        nn.init.ones_(self.gain)

    def forward(self, x: Tensor) -> Tensor:
        if cpu_kernels.norms(x):
            return cpu_kernels.rms_norm(x, self.gain, self.eps)
        return F.rms_norm(x, self.gain.shape, self.gain, self.eps)


class Attention(nn.Module):
    """Multi-head self-attention through torch's fused kernels."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.qkv = nn.Linear(config.n_embd, 3 * config.n_embd, bias=False)
        self.out = nn.Linear(config.n_embd, config.n_embd, bias=False)
        if config.qk_norm:
            self.q_norm, self.k_norm = HeadNorm(config), HeadNorm(config)

    def init_weights(self) -> None:
        width, depth = self.config.n_embd, self.config.n_layer
        nn.init.normal_(self.qkv.weight, std=1 / math.sqrt(width))
        init_output(self.out, self.config, std=1 / math.sqrt(width * depth))
        if self.config.qk_norm:
            self.q_norm.init_weights()
            self.k_norm.init_weights()

    def forward(
        self, x: Tensor, shared: Shared, cache: LayerCache | None = None, mix: ValueMix | None = None
    ) -> Tensor:
        """Inputs x (B, t, C) are the whole sequence, or, with a cache, what follows the positions in it."""
        q, k, v = self.project(x, shared)  # each (B, h, t, d)
        if mix is not None:
            v = mix(v, shared)
        dtype, mask = q.dtype, None
        if cache is not None:
            k, v = cache.append(k, v)  # (B, h, n, d): those in the cache, too
            q, mask = q.to(k.dtype), cache.mask
        # Without a mask, several queries are the first positions of the sequence, and a single one sees all keys.
        causal = self.config.causal and mask is None and q.shape[2] > 1
        dropout = self.config.attention_dropout if self.training else 0.0
        if cache is None and not dropout and cpu_kernels.attends(q, k, v):
            y = cpu_kernels.attend(q, k, v, causal)
        else:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal).to(dtype)
        return self.out(y.transpose(1, 2).flatten(2))

    def project(self, x: Tensor, shared: Shared) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (B, h, t, d) of x (B, t, C)."""
        q, k, v = (part.unflatten(-1, (self.config.n_head, -1)) for part in self.qkv(x).chunk(3, -1))  # (B, t, h, d)
        if self.config.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        if shared.rotation is not None:
            q, k = shared.rotation.of(q), shared.rotation.of(k)
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


class MLP(nn.Module):
    """Two linear maps with an activation between them; four times as wide inside. Variants define `activate`."""

    def __init__(self, config: TransformerConfig, hidden: int | None = None) -> None:
        super().__init__()
        self.config = config
        self.fc = nn.Linear(config.n_embd, hidden or 4 * config.n_embd, bias=False)
        self.out = nn.Linear(hidden or 4 * config.n_embd, config.n_embd, bias=False)

    def init_weights(self) -> None:
        nn.init.normal_(self.fc.weight, std=0.02)
        init_output(self.out, self.config, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.activate(self.fc(x)))  # (B, t, C) -> (B, t, 4 C) -> (B, t, C)

    def activate(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class QuickGELU(MLP):
    """The MLP with a quick GELU, x * sigmoid(1.702 x) = silu(1.702 x) / 1.702.

    It takes the weights of `fc` and `out` directly, so hooks on these two are not called.
    """

    def forward(self, x: Tensor) -> Tensor:
        fc, out = self.fc.weight, self.out.weight
        # Scaling the weights instead of the activations saves two passes over the largest tensor of the block, except
        # where one position is decoded at a time: there the weights are larger.
        if x.shape[1] == 1:
            return F.linear(F.silu(1.702 * F.linear(x, fc)) / 1.702, out)
        return F.linear(F.silu(F.linear(x, 1.702 * fc)), out / 1.702)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: TransformerConfig, number: int = 0) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.attn_norm = make_part("norm", config)
        self.attn = make_part("attention", config)
        self.mlp_norm = make_part("norm", config)
        self.mlp = make_part("mlp", config)
        self.value_mix = ValueMix(config, number) if config.mixes_values else None

    def forward(self, x: Tensor, shared: Shared, cache: LayerCache | None = None) -> Tensor:
        x = x + self.dropped(self.attn(self.attn_norm(x), shared, cache, self.value_mix))
        return x + self.dropped(self.mlp(self.mlp_norm(x)))

    def dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


class Transformer(nn.Module):
    """Tokens in, logits out."""

    blocks: Sequence[Block]  # an nn.ModuleList
    checkpointing = False  # in training, keep only the input of each block, and recompute the rest for its gradients

    def __init__(self, config: TransformerConfig, coordinates: Tensor | None = None) -> None:
        """`coordinates` (T, 2), of :func:`~igpt.model.rotary.cell_coordinates`, tell a model with rotary positions the
        row and column of each position; None are those of raster order. They are part of the state dict.
        """
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.n_embd)
        self.position_embedding = make_part("positions", config)
        self.rotary = None if config.rotary is None else Rotary(config, coordinates)
        self.value_embedding = ValueEmbedding(config) if config.value_embedding else None
        self.embedding_norm = make_part("norm", config) if config.embedding_norm else None
        if config.causal:
            self.start_embedding = nn.Parameter(torch.empty(config.n_embd))
        self.blocks = nn.ModuleList(Block(config, i) for i in range(config.n_layer))  # type: ignore[assignment]
        after_first = range(1, config.n_layer)
        self.shortcuts = nn.ModuleList(Mixed(1.0, 0.0) for _ in after_first) if config.input_shortcut else None
        self.norm = make_part("norm", config)
        bounded = config.logit_softcap is not None
        self.head = SoftcappedHead(config) if bounded else nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.init_weights()

    def init_weights(self) -> None:
        """The released initialization. With a zero head, the loss starts at exactly ln V."""
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        init_part(self.position_embedding)
        if self.config.causal:
            nn.init.normal_(self.start_embedding, std=0.02)
        for block in self.blocks:
            for part in block.children():
                init_part(part)
        for part in (self.value_embedding, self.embedding_norm, *(self.shortcuts or ())):
            init_part(part)
        init_part(self.norm)
        nn.init.zeros_(self.head.weight)

    @property
    def coordinates(self) -> Tensor | None:
        """Row and column of each position (T, 2), of a model that depends on them."""
        return None if self.rotary is None else self.rotary.coordinates

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """torch.compile, in place, so that parameters keep their names. All blocks share the code of one, so 48 layers
        compile as fast as one.

        Training batches have one size, and a graph of their own. The first validation makes a second graph, for any
        number of images, so that its last batch, which is smaller, needs none.
        """
        for block in self.blocks:
            block.compile(*args, **kwargs)  # type: ignore[no-untyped-call]

    # The whole sequence at once

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits (B, T, V) for tokens (B, T): position t's distribution over the token at position t.

        A causal model sees only what comes before t. One that is not causal sees all but the positions where `mask`
        (B, T) is True.
        """
        return self.head(self.hidden(tokens, mask))

    def hidden(
        self, tokens: Tensor, mask: Tensor | None = None, added: Tensor | None = None, at: Tensor | None = None
    ) -> Tensor:
        """What the head sees: the final norm's output (B, T, C).

        `added`, which broadcasts to (B, T, C), is added to the input. `at`, (T,) or (B, T), are the positions, if those
        are not the ones from the start of the sequence in their order.
        """
        x = self.embed(tokens, mask, added, at)
        return self.norm(last(self.residuals(x, at, self.token_values(tokens, mask))))

    def embed(
        self, tokens: Tensor, mask: Tensor | None = None, added: Tensor | None = None, at: Tensor | None = None
    ) -> Tensor:
        """Input embeddings (B, T, C), with what :meth:`hidden` adds.

        Causal: the start embedding comes first and the last token is dropped, so that every pixel is predicted, the
        first one included. Not causal: a masked token's embedding is multiplied by 0 and its position stays.
        """
        if self.config.causal:
            x = self.after_start(tokens[:, :-1])
        else:
            x = self.token_embedding(tokens)
            if mask is not None:
                x = x * ~mask[..., None]
        if added is not None:
            x = x + added
        return self.positioned(x, slice(x.shape[1]) if at is None else at)

    def after_start(self, tokens: Tensor) -> Tensor:
        """Embeddings (B, 1 + t, C) of the start and of tokens (B, t)."""
        start = self.start_embedding.expand(tokens.shape[0], 1, -1)
        return torch.cat([start, self.token_embedding(tokens)], dim=1)

    def positioned(self, x: Tensor, at: slice | Tensor) -> Tensor:
        """The first block's input (B, t, C), from embeddings at the positions `at`."""
        x = self.position_embedding(x, at)
        return x if self.embedding_norm is None else self.embedding_norm(x)

    def token_values(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor | None:
        """What the value embedding, if there is one, makes of the input of a whole sequence: (B, h, T, d)."""
        if self.value_embedding is None:
            return None
        if self.config.causal:
            return self.value_embedding(tokens[:, :-1], after_start=True)
        return self.value_embedding(tokens, mask=mask)

    def residuals(
        self,
        x: Tensor,
        at: slice | Tensor | None = None,
        token_values: Tensor | None = None,
        caches: Sequence[LayerCache] | None = None,
    ) -> Iterator[Tensor]:
        """The residual stream (B, t, C) before each block and after the last one: L + 1 tensors from x, the first.

        Without `at`, the positions are those from the start of the sequence.
        """
        at = slice(x.shape[1]) if at is None else at
        shared = Shared(at, None if self.rotary is None else self.rotary(at), token_values)
        first = x
        for i, block in enumerate(self.blocks):
            if self.shortcuts is not None and i > 0:
                x = self.shortcuts[i - 1](x, first)
            yield x
            if caches is not None:
                # block(x, ...), its hooks included, but never its compiled code: prompts have many lengths.
                x = block._call_impl(x, shared, caches[i])  # type: ignore[no-untyped-call]
            elif self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, shared, use_reentrant=False)  # with the same dropout
            else:
                x = block(x, shared)
        yield x

    # What representations are measured on

    def layer_inputs(self, tokens: Tensor, mask: Tensor | None = None) -> Iterator[Tensor]:
        """The norm's output (B, T, C) that each attention block sees, and the one that the head sees: L + 1 tensors."""
        states = self.residuals(self.embed(tokens, mask), token_values=self.token_values(tokens, mask))
        norms = [*(block.attn_norm for block in self.blocks), self.norm]
        for norm, x in zip(norms, states, strict=True):
            yield norm(x)

    def features(self, tokens: Tensor, mask: Tensor | None = None, regions: Tensor | None = None) -> Tensor:
        """Pooled features of every layer from one pass: (B, L + 1, C).

        Row l is the input of attention block l after its norm, averaged over the sequence (section 3.3 of the paper).
        The last row is the average of the final norm. No layer's sequence is kept. With the weights `regions` (R, T)
        there are R weighted means in place of the average, one after another: (B, L + 1, R * C).
        """
        return torch.stack([averages(x, regions) for x in self.layer_inputs(tokens, mask)], dim=1)

    # One position after another

    def next_logits(self, tokens: Tensor, cache: KVCache | FixedCache) -> Tensor:
        """Logits (B, V) of what comes after tokens (B, t), which follow what the cache has seen.

        The cache sees the tokens, too. An empty one sees the start embedding first, so that t may be 0.
        """
        starts = cache.is_empty
        x = self.after_start(tokens) if starts else self.token_embedding(tokens)  # (B, t, C)
        values = None if self.value_embedding is None else self.value_embedding(tokens, after_start=starts)
        caches = cache.extend(x.shape[1])
        at = caches[0].at
        x = last(self.residuals(self.positioned(x, at), at, values, caches))
        return self.head(self.norm(x[:, -1]))

    def new_cache(self, batch_size: int, dtype: torch.dtype | None = None) -> KVCache:
        """An empty cache for `batch_size` sequences of full length, where the weights are; `dtype` None is theirs."""
        weight = self.token_embedding.weight
        config = self.config
        shape = (2 * config.n_layer, batch_size, config.n_head, config.n_positions, config.head_size)
        return KVCache(torch.zeros(shape, device=weight.device, dtype=dtype or weight.dtype))


def init_part(part: nn.Module | None) -> None:
    """Initialize a part's weights, if it is there; one without `init_weights` keeps those of its constructor."""
    init_weights: Callable[[], object] | None = getattr(part, "init_weights", None)
    if init_weights is not None:
        init_weights()


def init_output(linear: nn.Linear, config: TransformerConfig, std: float) -> None:
    """Initialize the last matrix of a part whose output is added to the residual stream."""
    if config.zero_init:
        nn.init.zeros_(linear.weight)
    else:
        nn.init.normal_(linear.weight, std=std)


def last(tensors: Iterator[Tensor]) -> Tensor:
    """The last of them; no other one is kept."""
    for x in tensors:  # noqa: B007
        pass
    return x
