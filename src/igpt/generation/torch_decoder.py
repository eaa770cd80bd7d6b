"""The transformer one position at a time, in as few operations as possible.

A position alone is so little work that starting an operation takes longer than doing it, so what `Transformer.forward`
says module by module is said here in one flat loop. A test holds the two against each other.

Shapes as in transformer.py: B sequences, T positions, C = n_embd channels, h heads of size d, V colors, L blocks.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from igpt.model.cache import KVCache
from igpt.model.transformer import Transformer


class Decoder:
    """Goes on from a cache that has seen a prompt; to be used without gradients. It copies no matrices."""

    def __init__(self, model: Transformer, cache: KVCache) -> None:
        config = model.config
        self.cache, self.n_head = cache, config.n_head
        self.embedding, self.positions = model.token_embedding.weight, model.position_embedding.weight
        # x / rms(x) is sqrt(C) x / hypot(|x|, sqrt(C eps)). The factor is in the gains, and so is the quick GELU's.
        scale = math.sqrt(config.n_embd)
        self.floor = self.positions.new_tensor(scale * math.sqrt(model.norm.eps))
        self.blocks = [
            (
                scale * block.attn_norm.gain,
                block.attn.qkv.weight.T,
                block.attn.out.weight.T,
                1.702 * scale * block.mlp_norm.gain,
                block.mlp.fc.weight.T,
                block.mlp.out.weight.T,
            )
            for block in model.blocks
        ]
        self.gain, self.head = scale * model.norm.gain, model.head.weight.T

    def next_logits(self, token: Tensor) -> Tensor:
        """Logits (B, V) of what comes after `token` (B,), which follows what the cache has seen."""
        new, known = self.cache.make_room()
        dtype, cache_dtype = self.gain.dtype, self.cache.storage.dtype
        x = F.embedding(token, self.embedding) + self.positions[self.cache.length - 1]  # (B, C)
        for i, (attn_gain, qkv, attn_out, mlp_gain, fc, mlp_out) in enumerate(self.blocks):
            q, k, v = self.project(x, attn_gain, qkv).view(len(x), 3, self.n_head, 1, -1).unbind(1)  # (B, h, 1, d)
            new[2 * i].copy_(k)
            new[2 * i + 1].copy_(v)
            y = F.scaled_dot_product_attention(q.to(cache_dtype), known[2 * i], known[2 * i + 1]).to(dtype)
            x = torch.addmm(x, y.reshape(x.shape), attn_out)
            hidden = F.silu(self.project(x, mlp_gain, fc), inplace=True)  # quick GELU(x) = silu(1.702 x) / 1.702
            x = torch.addmm(x, hidden, mlp_out, alpha=1 / 1.702)
        return self.project(x, self.gain, self.head)

    def project(self, x: Tensor, gain: Tensor, weight: Tensor) -> Tensor:
        """The product of norm(x) (B, C), times the factors in `gain`, and a transposed weight (C, n)."""
        length = torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True), self.floor)
        return torch.mm(x / length * gain, weight)
