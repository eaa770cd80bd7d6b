"""Drawing pictures: tokens from a causal model, one after another, through a cache of keys and values."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from igpt.errors import IgptError
from igpt.generation.steps import Step, is_small_step, make_steps
from igpt.model.cache import cache_bytes
from igpt.model.config import TransformerConfig
from igpt.model.transformer import Transformer


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
    logits: Tensor, noise: Tensor | None, temperature: float = 1.0, top_k: int | None = None, top_p: float = 1.0
) -> Tensor:
    """One token (B,) for each row of logits (B, V), decided by `noise` (B, V); without noise the likeliest,
    whatever the other options are.

    The race of exponential variables draws what torch.multinomial draws, which on a GPU would wait for the device.
    """
    if noise is None:
        return logits.argmax(dim=-1)
    return (filter_logits(logits, temperature, top_k, top_p).softmax(dim=-1) / noise).argmax(dim=-1)


def exponential_noise(
    shape: torch.Size, device: torch.device, generator: torch.Generator | None, temperature: float
) -> Tensor | None:
    """What decides between tokens; nothing at temperature 0."""
    if temperature == 0:
        return None
    return torch.empty(shape, device=device, dtype=torch.float32).exponential_(generator=generator)


def bytes_a_picture(config: TransformerConfig, cache_dtype: torch.dtype) -> int:
    """What :func:`generate` keeps for each picture: keys, values and the noise."""
    return cache_bytes(config, 1, cache_dtype) + 4 * config.n_positions * config.vocab_size


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
    on_position: Callable[[], object] | None = None,
) -> Tensor:
    """Continue each prompt of the tokens (B, t), 0 <= t <= T, to n whole pictures: (B * n, T), those of one prompt next
    to each other.

    One full pass for the prompt, which its n pictures share, then one position a step. Temperature 0 takes the
    likeliest token each time. `generator` must live on the model's device. `cache_dtype` is the precision of the keys
    and values; None is that of the weights. `compile` makes one graph of a step; it is meant for GPUs, where launching
    a step's many kernels may take longer than running them. On a CPU,
    :mod:`~igpt.generation.c_decoder` takes the steps where it can, and torch's threads share the images.
    `on_position` is called after each position, to show progress.
    """
    if not model.config.causal:
        raise IgptError("This model was trained with the masked objective; only an autoregressive model generates.")
    check_choice(temperature, top_k, top_p)
    given, total = prompt.shape[1], model.config.n_positions
    tokens = F.pad(prompt, (0, total - given)).repeat_interleave(n, dim=0)
    if given == total:
        return tokens
    cache = model.new_cache(len(prompt), cache_dtype)
    logits = model.next_logits(prompt, cache).repeat_interleave(n, dim=0)
    if n > 1:
        cache = cache.repeat(n)
    # All of it beforehand, so that no picture depends on how the others are shared out.
    noise = exponential_noise(torch.Size([total - given, *logits.shape]), logits.device, generator, temperature)
    drawing = Drawing(tokens, given, noise, {"temperature": temperature, "top_k": top_k, "top_p": top_p}, on_position)
    drawing.add(logits)
    if drawing.known == total or len(tokens) == 0:
        return tokens
    steps = make_steps(model, cache, compile)
    if len(steps) > 1:
        finish_in_threads(drawing, steps)
    else:
        with torch_threads(1 if is_small_step(model, len(tokens)) else torch.get_num_threads()):
            drawing.finish(steps[0])
    return tokens


@dataclass
class Drawing:
    """Pictures that are begun: tokens (B, T), of which the first `known` are there, the noise (N, B, V) of the last N
    positions, the options of :func:`choose`, and what to call after each position.
    """

    tokens: Tensor
    known: int
    noise: Tensor | None
    options: dict[str, Any]
    on_position: Callable[[], object] | None = None

    def add(self, logits: Tensor) -> None:
        """Choose the next token of each picture, by logits (B, V)."""
        noise = None if self.noise is None else self.noise[self.known - self.tokens.shape[1]]
        self.tokens[:, self.known] = choose(logits, noise, **self.options)
        self.known += 1
        if self.on_position is not None:
            self.on_position()

    @torch.inference_mode()
    def finish(self, step: Step, stop: threading.Event | None = None) -> None:
        """Go on until the pictures are whole, or `stop` is set; `step` has seen all known tokens but the last."""
        while self.known < self.tokens.shape[1] and not (stop and stop.is_set()):
            self.add(step(self.tokens[:, self.known - 1]))

    def split(self, n: int) -> list[Drawing]:
        """The same as n drawings of some pictures each; the first one tells of its positions."""
        noise = [None] * n if self.noise is None else self.noise.tensor_split(n, dim=1)
        shares = zip(self.tokens.tensor_split(n), noise, strict=True)
        drawings = [Drawing(tokens, self.known, its_noise, self.options) for tokens, its_noise in shares]
        drawings[0].on_position = self.on_position
        return drawings


def finish_in_threads(drawing: Drawing, steps: Sequence[Step]) -> None:
    """Go on in as many threads as there are steps, each with its share of the pictures.

    They never wait for each other, so that it matters little if another program wants a core.
    """
    n, stop = len(steps), threading.Event()
    with torch_threads(1), ThreadPoolExecutor(n) as pool:
        try:
            work = [pool.submit(share.finish, step, stop) for share, step in zip(drawing.split(n), steps, strict=True)]
            wait(work, return_when=FIRST_EXCEPTION)
        finally:
            stop.set()  # the pool waits for all of them
    for done in work:
        done.result()


@contextmanager
def torch_threads(n: int) -> Iterator[None]:
    """Inside of this block, torch's CPU operations take n threads."""
    found = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(found)
