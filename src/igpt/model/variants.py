"""Parts of the network that the paper does not have, as modules. :class:`~igpt.model.config.TransformerConfig` names
them; `transformer.py` says where they stand.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from igpt.model import cpu_kernels
from igpt.model.config import TransformerConfig
from igpt.model.shared import Shared


class NoPositions(nn.Module):
    """Nothing is added to the embeddings, for models with rotary positions."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()

    def forward(self, x: Tensor, at: slice | Tensor) -> Tensor:
        return x


class HeadNorm(nn.Module):
    """x / rms(x) * gain over the channels of each head, for queries or keys (Henry et al. 2020; Dehghani et al. 2023).

    All heads have the same gain.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(config.head_size))
        self.eps = 1e-5

    def init_weights(self) -> None:
        nn.init.ones_(self.gain)

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float() if x.is_cpu and x.dtype == torch.bfloat16 else x  # torch's norm is slow in bfloat16 there
        if cpu_kernels.norms(wide):
            return cpu_kernels.rms_norm(wide, self.gain.to(wide.dtype), self.eps).to(x.dtype)
        return F.rms_norm(x, self.gain.shape, self.gain.to(x.dtype), self.eps)


class Mixed(nn.Module):
    """A sum of tensors with learnable weights."""

    def __init__(self, *initial: float) -> None:
        super().__init__()
        self.initial = initial
        self.weights = nn.Parameter(torch.tensor(initial))

    def init_weights(self) -> None:
        with torch.no_grad():
            self.weights.copy_(torch.tensor(self.initial))

    def forward(self, *tensors: Tensor) -> Tensor:
        first, *others = (weight * x for weight, x in zip(self.weights, tensors, strict=True))
        return sum(others, first)


class ValueMix(nn.Module):
    """The values of a block, with a learnable part of the first block's values (value residual, Zhou et al. 2024) and
    of a value embedding.
    """

    def __init__(self, config: TransformerConfig, number: int) -> None:
        super().__init__()
        self.sets_first = config.value_residual and number == 0
        self.with_first = config.value_residual and number > 0
        self.with_tokens = {number, number - config.n_layer} & {*config.value_embedding} != set()
        initial = (*((0.5, 0.5) if self.with_first else (1.0,)), *((1.0,) if self.with_tokens else ()))
        self.mixed = Mixed(*initial) if len(initial) > 1 else None

    def init_weights(self) -> None:
        if self.mixed is not None:
            self.mixed.init_weights()

    def forward(self, v: Tensor, shared: Shared) -> Tensor:
        """Values v (B, h, t, d) of this block; in the first one, the others will find them in `shared`."""
        if self.sets_first:
            shared.first_values = v
        if self.mixed is None:
            return v
        others = (shared.first_values if self.with_first else None, shared.token_values if self.with_tokens else None)
        return self.mixed(v, *(each.to(v.dtype) for each in others if each is not None))


class ValueEmbedding(nn.Embedding):
    """A second embedding of the tokens, for the values of attention. Its last row stands for no token: the start, and
    masked tokens.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config.vocab_size + 1, config.n_embd)
        self.n_head = config.n_head

    def init_weights(self) -> None:
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, tokens: Tensor, after_start: bool = False, mask: Tensor | None = None) -> Tensor:
        """Values (B, h, t, d) of tokens (B, t), or (B, h, 1 + t, d) of the start and of tokens."""
        no_token = self.num_embeddings - 1
        if after_start:
            tokens = F.pad(tokens, (1, 0), value=no_token)
        if mask is not None:
            tokens = tokens.masked_fill(mask, no_token)
        return super().forward(tokens).unflatten(-1, (self.n_head, -1)).transpose(1, 2)


class SoftcappedHead(nn.Linear):
    """Logits between -cap and cap: cap * tanh(x / cap) of a linear map (Gemma Team 2024). At least in float32."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config.n_embd, config.vocab_size, bias=False)
        assert config.logit_softcap is not None
        self.cap = config.logit_softcap

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        return self.cap * torch.tanh(logits.to(torch.promote_types(logits.dtype, torch.float32)) / self.cap)
