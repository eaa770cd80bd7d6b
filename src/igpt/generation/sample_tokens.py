"""Sampling of any number of images: by the decoder that fits the model, in batches that fit the memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from igpt.generation.autoregressive import cache_dtype, generate
from igpt.generation.noise import Noise
from igpt.generation.parallel_decoding import decode_parallel, passes_of
from igpt.generation.sampling_config import SamplingConfig
from igpt.model.cache import cache_bytes
from igpt.model.transformer import Transformer
from igpt.progress import Progress

MEMORY = 2 * 2**30  # bytes for one batch, where a GPU does not say how much is free


def sample_tokens(
    model: Transformer, prompts: Tensor, n: int, seed: int, sampling: SamplingConfig, batch_size: int = 64
) -> Tensor:
    """Continue each prompt (N, t), 0 <= t <= T, n times: tokens (N * n, T), those of one prompt adjacent.

    Continuation c of prompt i depends on nothing but (seed, i, c), except that batches of other sizes round
    differently. At most `batch_size` sequences are generated at once, and fewer if so many do not fit the memory.
    """
    given, total = prompts.shape[1], model.config.n_positions
    if not model.config.causal:
        unknown = (torch.arange(total) >= given).expand(len(prompts), total)
        return fill_tokens(model, F.pad(prompts, (0, total - given)), unknown, n, seed, sampling, batch_size)
    sampling.check_applicable(causal=True)
    prompts = prompts.to(model.head.weight.device)
    batches = batches_that_fit(model, len(prompts), n, seed, sampling, batch_size)
    with Progress("Sampling", total=(total - given) * len(batches)) as progress:
        parts = [generate(model, prompts[rows_of(batch)], batch, sampling, progress.advance) for batch in batches]
    return torch.cat(parts)


def fill_tokens(
    model: Transformer,
    tokens: Tensor,
    unknown: Tensor,
    n: int,
    seed: int,
    sampling: SamplingConfig,
    batch_size: int = 64,
) -> Tensor:
    """Choose the tokens (N, T) of each image that are `unknown` (N, T) n times, by a masked model: (N * n, T).

    What is said of :func:`sample_tokens` holds here, too.
    """
    sampling.check_applicable(causal=False)
    device = model.head.weight.device
    tokens, unknown = tokens.to(device), unknown.to(device)
    batches = batches_that_fit(model, len(tokens), n, seed, sampling, batch_size)
    passes = min(passes_of(sampling), int(unknown.sum(dim=1).max()))
    with Progress("Sampling", total=passes * len(batches)) as progress:
        parts = [
            decode_parallel(model, tokens[rows_of(batch)], unknown[rows_of(batch)], batch, sampling, progress.advance)
            for batch in batches
        ]
    return torch.cat(parts)


def rows_of(noise: Noise) -> slice:
    """The rows of the prompts that a batch's noise is for."""
    return slice(noise.prompts.start, noise.prompts.stop)


def batches_that_fit(
    model: Transformer, n_prompts: int, n: int, seed: int, sampling: SamplingConfig, batch_size: int
) -> list[Noise]:
    """The noise of each batch: at most `batch_size` sequences, and fewer if so many do not fit the memory."""
    at_once = min(batch_size, sequences_that_fit(model, sampling))
    return list(split(Noise(seed, range(n_prompts), range(n)), at_once))


def split(noise: Noise, at_once: int) -> Iterator[Noise]:
    """Batches of at most `at_once` sequences: all copies of some prompts, or some copies of one prompt."""
    rows = max(1, at_once // len(noise.copies))
    for first in range(0, len(noise.prompts), rows):
        for copy in range(0, len(noise.copies), at_once):
            yield Noise(noise.seed, noise.prompts[first : first + rows], noise.copies[copy : copy + at_once])


def sequences_that_fit(model: Transformer, sampling: SamplingConfig) -> int:
    """How many sequences fit half of the free memory of a GPU, or `MEMORY`; at least one."""
    weight = model.head.weight
    room = torch.cuda.mem_get_info(weight.device)[0] // 2 if weight.device.type == "cuda" else MEMORY
    return max(1, room // bytes_per_sequence(model, sampling))


def bytes_per_sequence(model: Transformer, sampling: SamplingConfig) -> int:
    """Memory for each sequence: keys and values, or, for a masked model, about what one pass holds at once."""
    config = model.config
    if config.causal:
        return cache_bytes(config, 1, cache_dtype(model, sampling))
    numbers = 12 * config.n_embd + 8 * config.vocab_size  # per position; measured peaks are below this
    return config.n_positions * numbers * model.head.weight.dtype.itemsize
