"""Two functions of the model, computed faster on a CPU than by torch: the gradients of the RMS norm, and attention in
bfloat16.

torch's RMS norm has no kernel of its own on CPUs, and autograd goes through every operation that it consists of. Its
attention multiplies small tiles by instructions that are slower in bfloat16 than in float32.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

ROWS = 128  # queries, of
HEADS = 16  # heads, whose weights are computed at once: few enough for the cache of a core


def norms(x: Tensor) -> bool:
    """Whether :func:`rms_norm` is faster for x. Without gradients it is not, and compiled code has its own kernel."""
    is_float32 = x.device.type == "cpu" and x.dtype == torch.float32
    return is_float32 and torch.is_grad_enabled() and not torch.compiler.is_compiling()


def attends(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether :func:`attend` is faster for these."""
    return all(x.device.type == "cpu" and x.dtype == torch.bfloat16 for x in (q, k, v))


def rms_norm(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    """The norm x / sqrt(mean(x^2) + eps) * gain over the last dimension. Its values are bitwise torch's, its gradients
    differ by rounding.
    """
    return RMSNormFunction.apply(x, gain, eps)  # type: ignore[no-untyped-call]


def attend(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """softmax(q k^T / sqrt(d)) v of queries, keys and values (B, h, T, d) in bfloat16."""
    return attention(*(x.flatten(0, 1) for x in (q, k, v)), causal).view_as(q)


class RMSNormFunction(torch.autograd.Function):
    """y = x r gain with r = 1 / sqrt(mean(x^2) + eps) over the last dimension; the values are bitwise torch's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, eps: float) -> Tensor:
        r = (x.square().mean(-1, keepdim=True) + eps).rsqrt_()
        ctx.save_for_backward(x, gain, r)
        return (x * r).mul_(gain)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        """With S the sum over the last dimension, dx = r gain dy - x r^3 S(gain dy x) / C; dgain sums r dy x."""
        x, gain, r = ctx.saved_tensors
        with torch.autocast("cpu", enabled=False):
            products = (dy * x).reshape(-1, x.shape[-1])  # (rows, C)
            sums = products.mv(gain).view_as(r)
            dx = (dy * gain).mul_(r).addcmul_(x, r.pow(3).mul_(sums), value=-1 / x.shape[-1])
            return dx, products.mT.mv(r.flatten()), None


@torch.library.custom_op("igpt::bfloat16_attention", mutates_args=())
def attention(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """softmax(q k^T / sqrt(d)) v of queries, keys and values, each (n, T, d) for n heads of all images together.

    No more than the weights of a block of queries are kept, and the gradients compute them again. Products, weights and
    gradients are rounded to bfloat16. Sums have float32, except for those of the gradients of keys and values over the
    blocks of queries. What a causal model cannot see is left out block by block.
    """
    out = torch.empty_like(q)
    for n, rows, keys in blocks(q, causal):
        torch.bmm(softmax(q[n, rows], k[n, keys], causal), v[n, keys], out=out[n, rows])
    return out


@torch.library.custom_op("igpt::bfloat16_attention_gradients", mutates_args=())
def gradients(g: Tensor, q: Tensor, k: Tensor, v: Tensor, causal: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v for the gradient g of the output."""
    dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
    scale = 1 / math.sqrt(q.shape[-1])
    for n, rows, keys in blocks(q, causal):
        p = softmax(q[n, rows], k[n, keys], causal)  # (n, r, m)
        dp = torch.bmm(g[n, rows], v[n, keys].mT)
        ds = torch._softmax_backward_data(dp, p, -1, p.dtype)
        torch.bmm(ds, k[n, keys], out=dq[n, rows])
        dk[n, keys].baddbmm_(ds.mT, q[n, rows])
        dv[n, keys].baddbmm_(p.mT, g[n, rows])
    return dq.mul_(scale), dk.mul_(scale), dv


def blocks(q: Tensor, causal: bool) -> Iterator[tuple[slice, slice, slice]]:
    """Heads, queries and the keys that these may see."""
    heads = max(HEADS, 2 * torch.get_num_threads())  # each core multiplies the matrices of some heads
    for first in range(0, q.shape[0], heads):
        for row in range(0, q.shape[1], ROWS):
            end = min(row + ROWS, q.shape[1])
            yield slice(first, first + heads), slice(row, end), slice(end if causal else q.shape[1])


def softmax(q: Tensor, k: Tensor, causal: bool) -> Tensor:
    """The weights (n, r, m) that r queries give m keys; if causal, the queries are at the last r of the m positions."""
    r, m = q.shape[1], k.shape[1]
    mask = q.new_full((r, m), -math.inf).triu_(m - r + 1) if causal else q.new_zeros(())
    return torch.baddbmm(mask, q, k.mT, alpha=1 / math.sqrt(q.shape[-1])).softmax(-1)


@attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    return torch.empty_like(q)


@gradients.register_fake
def _(g: Tensor, q: Tensor, k: Tensor, v: Tensor, causal: bool) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, bool], output: Tensor) -> None:
    *tensors, ctx.causal = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
    return *gradients(g.contiguous(), *ctx.saved_tensors, ctx.causal), None


attention.register_autograd(_backward, setup_context=_keep)
