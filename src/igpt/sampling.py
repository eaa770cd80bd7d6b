"""Drawing pictures: tokens from a causal model, one after another, through a cache of keys and values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional as F

from igpt.errors import IgptError
from igpt.model.cache import KVCache
from igpt.model.decoder import Decoder
from igpt.model.transformer import Transformer

SMALL_STEP = 2**19  # products of numbers in one operation, for which a second thread is not worth waiting for


def filter_logits(logits: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float = 1.0) -> Tensor:
    """Logits (B, V) over temperature, with -inf for all but the `top_k` largest and the smallest set of most likely
    tokens whose probabilities reach `top_p` (nucleus sampling, Holtzman et al. 2019).
    """
    logits = logits.float() / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        smallest_kept = logits.topk(top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < smallest_kept, -torch.inf)
    if top_p < 1:
        ranked, order = logits.sort(dim=-1, descending=True)
        probabilities = ranked.softmax(dim=-1)
        reached = probabilities.cumsum(dim=-1) - probabilities >= top_p  # before this token is counted
        logits = logits.masked_fill(reached.scatter(-1, order, reached), -torch.inf)
    return logits


def choose(
    logits: Tensor,
    generator: torch.Generator | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
) -> Tensor:
    """One token (B,) for each row of logits (B, V); temperature 0 takes the likeliest.

    The exponential race draws what torch.multinomial draws, which on a GPU would wait for the device at every step.
    """
    if temperature == 0:
        return logits.argmax(dim=-1)
    probabilities = filter_logits(logits, temperature, top_k, top_p).softmax(dim=-1)
    return (probabilities / torch.empty_like(probabilities).exponential_(1, generator=generator)).argmax(dim=-1)


def check_choice(temperature: float, top_k: int | None, top_p: float) -> None:
    """Refuse settings under which no token can be chosen."""
    if temperature < 0 or (top_k is not None and top_k < 1) or not 0 < top_p <= 1:
        raise IgptError(
            f"temperature={temperature}, top_k={top_k}, top_p={top_p}: the temperature must be at least 0, top_k at "
            "least 1 (or null) and top_p in (0, 1]."
        )


@torch.inference_mode()
def generate(
    model: Transformer,
    prompt: Tensor,
    generator: torch.Generator | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    n: int = 1,
    cache_dtype: torch.dtype | None = None,
    compile: bool = False,
) -> Tensor:
    """Continue each prompt of the tokens (B, t), 0 <= t <= T, to n whole pictures: (B * n, T), those of one prompt next
    to each other.

    One full pass for the prompt, which its n pictures share, then one position a step. Temperature 0 takes the
    likeliest token each time. `generator` must live on the model's device. `cache_dtype` is the precision of the keys
    and values; None is that of the weights. `compile` makes one graph of a step; it is meant for
    GPUs, where launching a step's many kernels may take longer than running them.
    """
    if not model.config.causal:
        raise IgptError("This model was trained with the masked objective; only an autoregressive model generates.")
    check_choice(temperature, top_k, top_p)
    given, total = prompt.shape[1], model.config.n_positions
    tokens = F.pad(prompt, (0, total - given)).repeat_interleave(n, dim=0)
    if given == total:
        return tokens
    cache = model.new_cache(len(prompt), cache_dtype)
    logits = model.prompt_logits(prompt, cache).repeat_interleave(n, dim=0)
    if n > 1:
        cache = cache.repeat(n)
    with threads_for_steps(model, len(tokens)):
        step = compiled_step(model, cache) if compile else Decoder(model, cache).next_logits
        tokens[:, given] = choose(logits, generator, temperature, top_k, top_p)
        for position in range(given + 1, total):
            logits = step(tokens[:, position - 1])
            tokens[:, position] = choose(logits, generator, temperature, top_k, top_p)
    return tokens


@contextmanager
def threads_for_steps(model: Transformer, batch_size: int) -> Iterator[None]:
    """Inside of this block, torch's CPU operations take one thread if the steps of `batch_size` pictures are small.

    Threads wait for each other after every operation: no gain where one takes microseconds, and, as soon as another
    program wants a core, a loss of a factor of ten or more.
    """
    products = batch_size * model.blocks[0].mlp.fc.weight.numel()  # of the largest matrix product
    found = torch.get_num_threads()
    if products < SMALL_STEP:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(found)


def compiled_step(model: Transformer, cache: KVCache) -> Callable[[Tensor], Tensor]:
    """A step for one token (B,) a call, as one compiled graph; on a GPU, a CUDA graph."""
    step = torch.compile(model.step, mode="reduce-overhead", dynamic=False)
    torch._dynamo.mark_static_address(cache.storage)  # written in place, which a CUDA graph allows only then
    position = torch.tensor([cache.length], device=cache.storage.device)

    def advance(token: Tensor) -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()
        logits = step(token.unsqueeze(1).contiguous(), cache.storage, position)
        position.add_(1)
        return logits

    return advance
