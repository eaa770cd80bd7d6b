"""Autoregressive sampling: one token after another, through a cache of keys and values."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from igpt.errors import IgptError
from igpt.generation.choose import choose_token
from igpt.generation.noise import Noise
from igpt.generation.sampling_config import SamplingConfig
from igpt.generation.steps import Step, is_small_step, make_steps
from igpt.model.transformer import Transformer


@torch.inference_mode()
def generate(
    model: Transformer,
    prompts: Tensor,
    noise: Noise | None = None,
    sampling: SamplingConfig | None = None,
    on_position: Callable[[], object] | None = None,
) -> Tensor:
    """Complete prompts (N, t), 0 <= t <= T, to tokens (B, T): as many copies of each prompt as `noise` has, adjacent.

    `noise` None is that of seed 0 for one copy. One forward pass takes the prompts, which their copies share; then each
    position takes one step, see :mod:`~igpt.generation.steps`. `on_position` is called after each position, to show
    progress.

    Raises :class:`IgptError` for a masked model, and for settings that do not apply to an autoregressive one.
    """
    if not model.config.causal:
        raise IgptError("This model was trained with the masked objective; only an autoregressive model generates.")
    sampling, noise = sampling or SamplingConfig(), noise or Noise(0, range(len(prompts)), range(1))
    sampling.check_applicable(causal=True)
    copies, start, total = len(noise.copies), prompts.shape[1], model.config.n_positions
    tokens = F.pad(prompts, (0, total - start)).repeat_interleave(copies, dim=0)  # (B, T)
    if start == total or len(tokens) == 0:
        return tokens

    cache = model.new_cache(len(prompts), cache_dtype(model, sampling))
    logits = model.next_logits(prompts, cache).repeat_interleave(copies, dim=0)  # (B, V)
    if copies > 1:
        cache = cache.repeat(copies)
    decoding = Decoding(tokens, noise.integers(total).to(tokens.device), sampling, on_position)
    decoding.choose(start, logits)
    if start + 1 == total:
        return tokens
    steps = make_steps(model, cache, sampling.compile)
    if len(steps) > 1:
        run_in_threads(decoding, start + 1, steps)
    else:
        with torch_threads(1 if is_small_step(model, len(tokens)) else torch.get_num_threads()):
            decoding.run(start + 1, steps[0])
    return tokens


def cache_dtype(model: Transformer, sampling: SamplingConfig) -> torch.dtype:
    """The precision of keys and values."""
    return model.head.weight.dtype if sampling.cache_dtype is None else getattr(torch, sampling.cache_dtype)


@dataclass(frozen=True)
class Decoding:
    """Sequences that are being generated, and the noise and settings that choose their tokens."""

    tokens: Tensor  # (B, T), written in place
    noise: Tensor  # (B, T) integers, see choose_token
    sampling: SamplingConfig
    on_position: Callable[[], object] | None

    def choose(self, position: int, logits: Tensor) -> None:
        """Choose the token at a position of each sequence, by its logits (B, V)."""
        self.tokens[:, position] = choose_token(logits, self.noise[:, position], self.sampling)
        if self.on_position is not None:
            self.on_position()

    @torch.inference_mode()
    def run(self, first: int, step: Step, stop: threading.Event | None = None) -> None:
        """Generate the positions from `first` on, unless `stop` is set; `step` has seen all tokens but the last."""
        for position in range(first, self.tokens.shape[1]):
            if stop is not None and stop.is_set():
                return
            self.choose(position, step(self.tokens[:, position - 1]))

    def split(self, n: int) -> list[Decoding]:
        """Parts with some of the sequences each, n in all, of which the first one calls `on_position`."""
        callbacks = [self.on_position, *[None] * (n - 1)]
        parts = zip(self.tokens.tensor_split(n), self.noise.tensor_split(n), callbacks, strict=True)
        return [Decoding(tokens, noise, self.sampling, callback) for tokens, noise, callback in parts]


def run_in_threads(decoding: Decoding, first: int, steps: Sequence[Step]) -> None:
    """Share the sequences among as many threads as there are steps.

    The threads never wait for each other, so another program that needs a core slows down only one of them.
    """
    n, stop = len(steps), threading.Event()
    with torch_threads(1), ThreadPoolExecutor(n) as pool:
        try:
            parts = zip(decoding.split(n), steps, strict=True)
            work = [pool.submit(part.run, first, step, stop) for part, step in parts]
            wait(work, return_when=FIRST_EXCEPTION)
        finally:
            stop.set()  # the pool waits for all threads
    for done in work:
        done.result()


@contextmanager
def torch_threads(n: int) -> Iterator[None]:
    """Inside this block, torch's CPU operations use n threads."""
    found = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(found)
