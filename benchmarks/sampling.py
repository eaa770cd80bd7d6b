"""Sampling with the same weights: igpt's cache, Hugging Face ImageGPT's `generate` with its dynamic cache, and the loop
of the original release, which runs the whole sequence once per pixel.

python benchmarks/sampling.py
python benchmarks/sampling.py --model s --device cuda --bf16-cache --compile --name sampling_gpu

All continue the same first pixels greedily, so they must generate the same images; the table has the share of equal
tokens. Only some passes of the uncached loop are timed: all cost the same, since each runs over all positions.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from unittest.mock import patch

import torch
import transformers
from table import Row, write_table
from torch import Tensor
from transformers import ImageGPTConfig, ImageGPTForCausalImageModeling

from igpt.generation.autoregressive import generate, torch_threads
from igpt.generation.sampling_config import SamplingConfig
from igpt.model.cache import cache_bytes
from igpt.model.config import PRESETS, TransformerConfig
from igpt.model.transformer import Transformer


def random_model(config: TransformerConfig) -> Transformer:
    """Weights large enough to avoid ties between the most likely tokens."""
    torch.manual_seed(0)
    model = Transformer(config)
    torch.nn.init.normal_(model.head.weight, std=0.2)
    return model.eval()


def hugging_face(ours: Transformer) -> ImageGPTForCausalImageModeling:
    """ImageGPT with our weights; its biases, which the release lacks, at 0."""
    config = ours.config
    shape = {name: getattr(config, name) for name in ("n_positions", "n_embd", "n_layer", "n_head")}
    theirs = ImageGPTForCausalImageModeling(
        ImageGPTConfig(vocab_size=config.vocab_size + 1, activation_function="quick_gelu", **shape)
    )
    weights = {name: torch.zeros_like(weight) for name, weight in theirs.state_dict().items()}
    weights["transformer.wte.weight"] = torch.cat([ours.token_embedding.weight, ours.start_embedding[None]])
    weights["transformer.wpe.weight"] = ours.position_embedding.weight
    weights["transformer.ln_f.weight"] = ours.norm.gain
    weights["lm_head.weight"] = ours.head.weight
    for i, block in enumerate(ours.blocks):
        weights |= {
            f"transformer.h.{i}.ln_1.weight": block.attn_norm.gain,
            f"transformer.h.{i}.ln_2.weight": block.mlp_norm.gain,
            f"transformer.h.{i}.attn.c_attn.weight": block.attn.qkv.weight.T,
            f"transformer.h.{i}.attn.c_proj.weight": block.attn.out.weight.T,
            f"transformer.h.{i}.mlp.c_fc.weight": block.mlp.fc.weight.T,
            f"transformer.h.{i}.mlp.c_proj.weight": block.mlp.out.weight.T,
        }
    theirs.load_state_dict(weights)
    return theirs.eval()


def generate_hugging_face(model: ImageGPTForCausalImageModeling, prompt: Tensor) -> Tensor:
    """Greedy tokens (B, T) that begin with `prompt` (B, t)."""
    start = torch.nn.functional.pad(prompt, (1, 0), value=model.config.vocab_size - 1)
    length = model.config.n_positions - prompt.shape[1]
    tokens = model.generate(
        start, attention_mask=torch.ones_like(start), do_sample=False, use_cache=True, pad_token_id=0,
        min_new_tokens=length, max_new_tokens=length,
    )  # fmt: skip
    return tokens[:, 1:]


@torch.inference_mode()
def uncached(model: Transformer, tokens: Tensor, positions: list[int]) -> Tensor:
    """What the release's loop puts at `positions`, (B, P), one pass each, given that `tokens` (B, T) stand before."""
    return torch.stack([model(tokens)[:, position].argmax(dim=-1) for position in positions], dim=1)


def timed(work: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """Seconds, with the device's work done."""
    start = time.perf_counter()
    result = work()
    result.cpu()
    return time.perf_counter() - start, result


def bytes_read(model: Transformer, batch_size: int, cache: torch.dtype) -> float:
    """Bytes that sampling must read from memory: for each pixel all weights, and on average half of the cache."""
    weights = sum(p.nbytes for p in model.parameters())
    return model.config.n_positions * (weights + cache_bytes(model.config, batch_size, cache) / 2)


def copy_speed(device: torch.device, size: int = 2**28) -> float:
    """Bytes per second that the device reads and writes while it copies."""
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    times = []
    for _ in range(6):
        took, _ = timed(lambda: target.copy_(source)[:1])
        times.append(took)
    return 2 * size / median(times[1:])


def compare(model: Transformer, batch_size: int, arguments: argparse.Namespace) -> list[Row]:
    """One row per implementation that generates `batch_size` images; the implementations take turns."""
    total, theirs = model.config.n_positions, hugging_face(model).to(arguments.device)
    prompt = torch.arange(batch_size, device=arguments.device)[:, None] % model.config.vocab_size  # no two are the same
    ours = partial(generate, model, prompt, sampling=SamplingConfig(temperature=0))
    expected = ours()
    positions = torch.linspace(1, total - 1, min(arguments.passes, total - 1)).long().tolist()
    ways: dict[str, Callable[[], Tensor]] = {"igpt": ours}
    if arguments.device == "cpu":
        ways["igpt, no C compiler"] = patch("igpt.generation.steps.supports", lambda *_: False)(ours)
    if arguments.bf16_cache:
        ways["igpt, keys and values in bfloat16"] = partial(
            ours, sampling=SamplingConfig(temperature=0, cache_dtype="bfloat16")
        )
    if arguments.compile:
        ways["igpt, compiled step"] = partial(ours, sampling=SamplingConfig(temperature=0, compile=True))
    ways["Hugging Face generate"] = partial(generate_hugging_face, theirs, prompt)
    if arguments.device == "cpu" and torch.get_num_threads() > 1:
        ways["Hugging Face generate, one thread"] = torch_threads(1)(ways["Hugging Face generate"])
    ways["no cache, as the release"] = partial(uncached, model, expected, positions)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    equal = {}
    for repetition in range(1 + arguments.repetitions):
        for name, way in ways.items():
            took, tokens = timed(way)
            full = tokens.shape[1] == total
            equal[name] = (tokens == (expected if full else expected[:, positions])).float().mean().item()
            if repetition > 0:  # the first call warms up
                seconds[name].append(took if full else took * total / len(positions))
    base = median(seconds["igpt"])

    def gigabytes_per_second(name: str, took: float) -> float | None:
        cache = torch.bfloat16 if "bfloat16" in name else torch.float32
        return round(bytes_read(model, batch_size, cache) / took / 1e9, 1) if name.startswith("igpt") else None

    return [
        {
            "batch size": batch_size,
            "implementation": name,
            "seconds": round(median(took), 3),
            "seconds per image": round(median(took) / batch_size, 3),
            "time relative to igpt": round(median(took) / base, 2),
            "equal tokens, %": round(100 * equal[name], 2),
            "GB/s read, at least": gigabytes_per_second(name, median(took)),
        }
        for name, took in seconds.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=PRESETS, default="nano")
    parser.add_argument("--side", type=int, default=32, help="image side in pixels")
    parser.add_argument("--colors", type=int, default=512)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 2, 8])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="CPU threads; by default torch's own choice")
    parser.add_argument("--passes", type=int, default=8, help="of the uncached loop, evenly spaced, that are timed")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--bf16-cache", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--name", default="sampling", help="of the files below benchmarks/results")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    shape = TransformerConfig(**PRESETS[arguments.model], vocab_size=arguments.colors, n_positions=arguments.side**2)
    model = random_model(shape).to(arguments.device)
    rows = [row for size in arguments.batch_sizes for row in compare(model, size, arguments)]
    timed_passes = min(arguments.passes, shape.n_positions)
    write_table(
        arguments.name,
        f"Sampling images of {arguments.side}x{arguments.side} with {arguments.model}",
        rows,
        f"Random float32 weights, shared; greedy; {arguments.colors} colors; {arguments.device}, "
        f"{torch.get_num_threads()} CPU threads; transformers {transformers.__version__}. Median of "
        f"{arguments.repetitions} repetitions in turn, after one warm-up. The release runs one full pass for each of "
        f"the {shape.n_positions} pixels: {timed_passes} evenly spaced ones are timed and compared, and the time is "
        f"scaled by {shape.n_positions}/{timed_passes}. GB/s read: all weights and on average half of the keys and "
        f"values, per pixel. Copying moves {copy_speed(model.head.weight.device) / 1e9:.1f} GB/s here, half of them "
        "read; faster rows read from the processor's cache.",
    )


if __name__ == "__main__":
    main()
