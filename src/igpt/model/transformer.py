"""The image GPT: a GPT-2 style transformer over color tokens, top to bottom in one file.

Shapes: B images, T positions (= H * W, raster order), C = n_embd channels, h heads of size d, V = vocab_size colors,
L = n_layer blocks.

The architecture is that of Chen et al. 2020, "Generative Pretraining from Pixels", as it was released: pre-norm
blocks, "layer norms" that are RMS norms with a gain and nothing else, no biases, quick GELU, learned positions, and
an output matrix that is not tied to the input embedding and starts at zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from igpt.model.cache import FixedCache, KVCache
from igpt.model.config import TransformerConfig


class RMSNorm(nn.Module):
    """x / rms(x) * gain, over the channels."""

    def __init__(self, n_embd: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(n_embd))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.gain.shape, self.gain, self.eps)


class Attention(nn.Module):
    """Multi-head self-attention through torch's fused kernels."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.n_head, self.causal = config.n_head, config.causal
        self.qkv = nn.Linear(config.n_embd, 3 * config.n_embd, bias=False)
        self.out = nn.Linear(config.n_embd, config.n_embd, bias=False)

    def forward(self, x: Tensor, cache: KVCache | FixedCache | None = None, layer: int = 0) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.n_head, -1)).permute(2, 0, 3, 1, 4)  # each (B, h, T, d)
        dtype, visible = q.dtype, None
        if cache is not None:
            k, v = cache.append(layer, k, v)
            q, visible = q.to(k.dtype), cache.visible
        # One query at the end of a fixed cache has its own mask; any other causal call starts at position 0.
        causal = self.causal and q.shape[2] > 1
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=visible, is_causal=causal).to(dtype)
        return self.out(y.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Two linear maps with a quick GELU, x * sigmoid(1.702 x), between them; four times as wide inside."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.fc = nn.Linear(config.n_embd, 4 * config.n_embd, bias=False)
        self.out = nn.Linear(4 * config.n_embd, config.n_embd, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        # quick GELU(x) = silu(1.702 x) / 1.702. Scaling the weights instead of the activations saves two passes over
        # the largest tensor of the block, except where one position is decoded at a time: there the weights are larger.
        if x.shape[1] == 1:
            return self.out(F.silu(1.702 * self.fc(x)) / 1.702)
        x = F.silu(F.linear(x, 1.702 * self.fc.weight))
        return F.linear(x, self.out.weight / 1.702)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attn_norm = RMSNorm(config.n_embd)
        self.attn = Attention(config)
        self.mlp_norm = RMSNorm(config.n_embd)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, cache: KVCache | FixedCache | None = None, layer: int = 0) -> Tensor:
        x = x + self.attn(self.attn_norm(x), cache, layer)
        return x + self.mlp(self.mlp_norm(x))


class Transformer(nn.Module):
    """Tokens in, logits out."""

    blocks: Sequence[Block]  # an nn.ModuleList
    checkpointing = False  # in training, keep each block's input alone, and calculate the rest again when it is due

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.n_embd)
        self.position_embedding = nn.Embedding(config.n_positions, config.n_embd)
        if config.causal:
            self.start_embedding = nn.Parameter(torch.empty(config.n_embd))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))  # type: ignore[assignment]
        self.norm = RMSNorm(config.n_embd)
        self.head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.init_weights()

    def init_weights(self) -> None:
        """The released initialization; with a zero head, the loss starts at ln V exactly."""
        width, depth = self.config.n_embd, self.config.n_layer
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.position_embedding.weight, std=0.01)
        if self.config.causal:
            nn.init.normal_(self.start_embedding, std=0.02)
        for block in self.blocks:
            nn.init.normal_(block.attn.qkv.weight, std=1 / math.sqrt(width))
            nn.init.normal_(block.attn.out.weight, std=1 / math.sqrt(width * depth))
            nn.init.normal_(block.mlp.fc.weight, std=0.02)
            nn.init.normal_(block.mlp.out.weight, std=0.02)
        nn.init.zeros_(self.head.weight)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """torch.compile, in place, so that parameters keep their names. All blocks share the code of one, which makes
        the wait as short for 48 layers as for one.

        Training batches have one size, and a graph of their own. The first validation makes a second graph, for any
        number of images, so that its last batch, which is smaller, needs none.
        """
        for block in self.blocks:
            block.compile(*args, **kwargs)  # type: ignore[no-untyped-call]

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits (B, T, V) for tokens (B, T): position t's distribution over what stands, or stood, at position t.

        A causal model sees only what comes before t. One that is not sees all but the positions where `mask` (B, T)
        is True.
        """
        return self.head(self.hidden(tokens, mask))

    def hidden(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """What the head sees: the final norm's output (B, T, C)."""
        x = self.embed(tokens, mask)
        for block in self.blocks:
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False, preserve_rng_state=False)  # there is no dropout
            else:
                x = block(x)
        return self.norm(x)

    def embed(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Input embeddings (B, T, C).

        Causal: the start embedding goes first and the last token is dropped, so that every pixel is predicted, the
        first one included. Not causal: a masked token's embedding is multiplied by 0 and its position stays.
        """
        if self.config.causal:
            x = self._after_start(tokens[:, :-1])
        else:
            x = self.token_embedding(tokens)
            if mask is not None:
                x = x * ~mask[..., None]
        return x + self.position_embedding.weight[: x.shape[1]]

    def features(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pooled features of every layer from one pass: (B, L + 1, C).

        Row l is the post-norm input of attention block l, averaged over the sequence (section 3.3 of the paper);
        the last row is the average of the final norm. No layer's sequence is kept.
        """
        x = self.embed(tokens, mask)
        pooled = []
        for block in self.blocks:
            pooled.append(block.attn_norm(x).mean(dim=1))
            x = block(x)
        pooled.append(self.norm(x).mean(dim=1))
        return torch.stack(pooled, dim=1)

    def prompt_logits(self, tokens: Tensor, cache: KVCache) -> Tensor:
        """Logits (B, V) of what comes after a prompt (B, t), 0 <= t < T, whose keys and values fill the empty cache.

        :class:`~igpt.generation.torch_decoder.Decoder` goes on from there.
        """
        x = self._after_start(tokens)
        x = x + self.position_embedding.weight[: x.shape[1]]
        for layer, block in enumerate(self.blocks):
            x = block.forward(x, cache, layer)  # never the compiled one: prompts have many lengths
        cache.length = x.shape[1]
        return self.head(self.norm(x[:, -1]))

    def step(self, token: Tensor, storage: Tensor, position: Tensor) -> Tensor:
        """Logits (B, V) after one token (B, 1) at `position` (1,), which follows what is in the storage of a cache.

        What a Decoder does, for torch.compile and CUDA graphs: no shape depends on the position, so that they see the
        same step every time; the price is attention over all T keys.
        """
        cache = FixedCache(storage, position)
        x = self.token_embedding(token) + self.position_embedding(position)
        for layer, block in enumerate(self.blocks):
            x = block.forward(x, cache, layer)
        return self.head(self.norm(x[:, -1]))

    def new_cache(self, batch_size: int, dtype: torch.dtype | None = None) -> KVCache:
        """An empty cache for `batch_size` sequences of full length, where the weights are; `dtype` None is theirs."""
        weight = self.token_embedding.weight
        config = self.config
        shape = (2 * config.n_layer, batch_size, config.n_head, config.n_positions, config.head_size)
        return KVCache(torch.zeros(shape, device=weight.device, dtype=dtype or weight.dtype))

    def _after_start(self, tokens: Tensor) -> Tensor:
        start = self.start_embedding.expand(tokens.shape[0], 1, -1)
        return torch.cat([start, self.token_embedding(tokens)], dim=1)
