"""Training steps as igpt-plan estimates them and as they are measured: FLOP/s, MFU, peak memory.

python benchmarks/plan.py
python benchmarks/plan.py --device cuda --models s m l --sides 32 --colors 512 --precision bf16-mixed --compile

Without --images, a GPU gets as many as the plan says that fit, up to 128.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import nullcontext
from statistics import median

import torch
from table import Row, write_table

from igpt.model.config import PRESETS, TransformerConfig
from igpt.model.transformer import Transformer
from igpt.objectives.losses import autoregressive_nats
from igpt.planning.compute import measure
from igpt.planning.devices import DEVICES, find_precision
from igpt.planning.memory import Memory, activation_memory, largest_batch, state_memory
from igpt.training.callbacks.throughput import find_card
from igpt.training.optimizers import OptimConfig

CPU_IMAGES, GPU_IMAGES, SPARE = 16, 128, 0.1


def seconds(work: Callable[[], object], device: torch.device, repetitions: int) -> float:
    """Median over repetitions, after three that compile and warm up."""
    times = []
    for _ in range(3 + repetitions):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return median(times[3:])


def peak(device: torch.device, arithmetic: str) -> tuple[float, str]:
    """Peak FLOP/s and their source: the data sheet of a known card, or a measured matrix product."""
    card = find_card(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    if card:
        return DEVICES[card].speed(arithmetic), DEVICES[card].source
    size = 2048 if device.type == "cpu" else 8192
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(arithmetic, torch.float32)
    a, b = torch.randn(2, size, size, device=device, dtype=dtype)
    return 2 * size**3 / seconds(lambda: a @ b, device, 5), f"a product of {size} x {size} matrices"


def planned(config: TransformerConfig, precision: str, images: int) -> Memory:
    """The planned memory of a step with Adam on one device."""
    size, format_ = measure(config), find_precision(precision)
    state = state_memory(size.parameters, size.optimizer_values("adam"), format_, devices=1)
    return Memory(*state, *activation_memory(config, format_, images, checkpointed=False))


def batch_size(config: TransformerConfig, arguments: argparse.Namespace) -> int:
    """Images per step."""
    if arguments.images or arguments.device == "cpu":
        return arguments.images or CPU_IMAGES
    room = torch.cuda.mem_get_info()[1] * (1 - SPARE)
    return min(GPU_IMAGES, largest_batch(lambda n: planned(config, arguments.precision, n, True).peak, room))


def step_seconds(config: TransformerConfig, images: int, arguments: argparse.Namespace) -> float:
    """A training step on random tokens: forward, backward, Adam."""
    device = torch.device(arguments.device)
    half = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(arguments.precision)
    model = Transformer(config).to(device)
    tokens = torch.randint(config.vocab_size, (images, config.n_positions), device=device)
    optimizer = OptimConfig(lr=1e-3, total_steps=1).optimizer(model)
    if arguments.compile:
        model.compile()

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, half) if half else nullcontext():
            loss = autoregressive_nats(model(tokens), tokens).mean()
        loss.backward()
        optimizer.step()

    return seconds(step, device, arguments.repetitions)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", choices=PRESETS, nargs="+", default=["nano", "xs"])
    parser.add_argument("--sides", type=int, nargs="+", default=[8, 16], help="image side in pixels")
    parser.add_argument("--colors", type=int, default=128)
    parser.add_argument("--images", type=int, help="images per step")
    parser.add_argument("--precision", choices=["32-true", "bf16-mixed", "16-mixed"], default="32-true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--name", default="plan", help="of the files below benchmarks/results")
    arguments = parser.parse_args()
    device, on_gpu = torch.device(arguments.device), arguments.device != "cpu"
    speed, source = peak(device, find_precision(arguments.precision).arithmetic)
    rows: list[Row] = []
    for name in arguments.models:
        for side in arguments.sides:
            config = TransformerConfig(**PRESETS[name], vocab_size=arguments.colors, n_positions=side**2)
            images = batch_size(config, arguments)
            flops = measure(config).flops * images
            if on_gpu:
                torch.cuda.reset_peak_memory_stats()
            measured = step_seconds(config, images, arguments)
            row: Row = {
                "model": name,
                "pixels": f"{side}x{side}",
                "images": images,
                "planned GFLOP per step": round(flops / 1e9, 2),
                "measured seconds per step": round(measured, 3),
                "images per second": round(images / measured, 1),
                "GFLOP/s": round(flops / measured / 1e9, 1),
                "MFU": round(flops / measured / speed, 3),
                "planned peak memory, GB": round(planned(config, arguments.precision, images).peak / 1e9, 2),
            }
            gigabytes = {"measured, GB": round(torch.cuda.max_memory_allocated() / 1e9, 2)} if on_gpu else {}
            rows.append({**row, **gigabytes})
    compiled = "compiled" if arguments.compile else "eager"
    notes = (
        f"{arguments.precision}, {compiled}, {arguments.device}, {torch.get_num_threads()} CPU threads, median of "
        f"{arguments.repetitions} steps. MFU is relative to {speed / 1e12:.4g} TFLOP/s: {source}."
    )
    write_table(arguments.name, "Planned and measured training steps", rows, notes)


if __name__ == "__main__":
    main()
