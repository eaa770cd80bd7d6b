"""The cost of a training step as one quantity grows: resolution, images, width or depth.

python benchmarks/scaling.py
python benchmarks/scaling.py --device cuda --width 512 --layers 24 --batch-size 16
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from statistics import median

import torch
from table import Row, write_table

from igpt.model.config import TransformerConfig
from igpt.model.transformer import Transformer
from igpt.objectives.losses import autoregressive_nats
from igpt.planning.compute import measure

SIDES = (16, 32, 48, 64)
FACTORS = (1, 2, 4)  # of images, width and depth


def step_seconds(config: TransformerConfig, images: int, device: torch.device, repetitions: int) -> float:
    """Median seconds of a step: forward, backward, Adam."""
    torch.manual_seed(0)
    model = Transformer(config).to(device)
    optimizer = torch.optim.Adam(model.parameters(), fused=device.type == "cuda")
    tokens = torch.randint(config.vocab_size, (images, config.n_positions), device=device)
    seconds = []
    for _ in range(1 + repetitions):
        start = time.perf_counter()
        loss = autoregressive_nats(model(tokens), tokens).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return median(seconds[1:])  # the first one warms up


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--colors", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="CPU threads; by default torch's own choice")
    parser.add_argument("--name", default="scaling", help="of the files below benchmarks/results")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    base = TransformerConfig(arguments.layers, arguments.heads, arguments.width, arguments.colors, n_positions=32**2)
    images = arguments.batch_size
    points = [("image side", side, replace(base, n_positions=side**2), images) for side in SIDES]
    points += [("images", n * images, base, n * images) for n in FACTORS]
    points += [("width", n * base.n_embd, replace(base, n_embd=n * base.n_embd), images) for n in FACTORS]
    points += [("layers", n * base.n_layer, replace(base, n_layer=n * base.n_layer), images) for n in FACTORS]
    rows: list[Row] = []
    for quantity, value, config, batch_size in points:
        size = measure(config)
        seconds = step_seconds(config, batch_size, torch.device(arguments.device), arguments.repetitions)
        rows.append(
            {
                "varied quantity": quantity,
                "value": value,
                "million parameters": round(size.parameters / 1e6, 2),
                "milliseconds per step": round(1000 * seconds, 1),
                "milliseconds per image": round(1000 * seconds / batch_size, 1),
                "tokens per second": round(batch_size * config.n_positions / seconds),
                "attention, % of FLOPs": round(100 * size.attention_flops / size.flops),
                "GFLOP/s": round(batch_size * size.flops / seconds / 1e9, 1),
            }
        )
    write_table(
        arguments.name,
        "The cost of a training step",
        rows,
        f"Base: {base.n_layer} layers, width {base.n_embd}, {base.n_head} heads, 32x32 pixels, {base.vocab_size} "
        f"colors, {images} images; float32, {arguments.device}, {torch.get_num_threads()} CPU threads. Forward, "
        f"backward and Adam, eager; medians of {arguments.repetitions} steps after one warm-up. FLOPs count "
        "full attention, although causal kernels skip nearly half of it.",
    )


if __name__ == "__main__":
    main()
