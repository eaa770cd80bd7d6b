"""Which function takes a step of autoregressive sampling: one more token of each image in, the next logits out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from igpt.generation.c_decoder import NativeDecoder, agrees, supports
from igpt.model.cache import FixedCache, KVCache
from igpt.model.transformer import Transformer

Step = Callable[[Tensor], Tensor]  # tokens (B,) that follow what a cache has seen in, logits (B, V) of what follows out

SMALL_STEP = 2**19  # multiply-adds in the largest operation, for which a second thread is not worth waiting for
LARGE_MODEL = 2**26  # bytes of weights, more than processor caches are likely to hold
FEW_THREADS = 4  # that can read the same weights at once


def make_steps(model: Transformer, cache: KVCache, compile: bool = False) -> list[Step]:
    """The steps that continue from a cache which has seen a prompt.

    One step takes all B images of the cache. More than one take a share of the images each, those of
    `tensor_split(len(steps))`, and are meant to run at once, each in a thread of its own: they do not hold Python's
    lock, and need one torch thread each. `compile` makes one graph of a step, for GPUs.
    """
    if compile:
        return [compiled_step(model, cache)]
    if prefers_image_threads(model) and supports(model, cache) and agrees(model):
        shares = min(cache.storage.shape[1], torch.get_num_threads())
        return [NativeDecoder(model, share).next_logits for share in cache.split(shares)]
    return [lambda token: model.next_logits(token[:, None], cache)]


def prefers_image_threads(model: Transformer) -> bool:
    """Whether threads with images of their own are faster than threads with parts of every operation.

    Each thread reads all weights. That costs little while processor caches hold the weights, or few threads share the
    memory. On two cores it was faster for sizes up to s; the limit on many cores has not been measured.
    """
    return sum(p.nbytes for p in model.parameters()) <= LARGE_MODEL or torch.get_num_threads() <= FEW_THREADS


def is_small_step(model: Transformer, batch_size: int) -> bool:
    """Whether operations on `batch_size` images are too small for several threads.

    Threads wait for each other after every operation. That gains nothing where an operation takes microseconds, and
    loses a factor of ten or more as soon as another program wants a core.
    """
    largest = max(p.numel() for block in model.blocks for p in block.parameters())
    return batch_size * largest < SMALL_STEP


def compiled_step(model: Transformer, cache: KVCache) -> Step:
    """A step as one compiled graph; on a GPU, a CUDA graph."""
    next_logits = torch.compile(model.next_logits, mode="reduce-overhead", dynamic=False)
    fixed = FixedCache(cache.storage, torch.tensor([cache.length], device=cache.storage.device))
    for layer in fixed.layers:
        torch._dynamo.mark_static_address(layer)  # written in place, which a CUDA graph allows only then

    def step(token: Tensor) -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()
        logits = next_logits(token[:, None].contiguous(), fixed)
        fixed.length.add_(1)
        return logits

    return step
