"""What igpt-plan calculates against what this machine does: FLOP/s of training steps beside those of a bare product.

python benchmarks/plan.py
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch
from table import write_table

from igpt.model.config import PRESETS, TransformerConfig
from igpt.model.transformer import Transformer
from igpt.objectives.losses import autoregressive_nats
from igpt.planning.compute import measure
from igpt.training.optim import OptimConfig

IMAGES, REPETITIONS = 16, 5


def seconds(work: Callable[[], object]) -> float:
    """Median over repetitions, after one that does not count."""
    times = []
    for _ in range(1 + REPETITIONS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return median(times[1:])


def product_speed(size: int = 2048) -> float:
    """FLOP/s of a float32 product of square matrices."""
    a, b = torch.randn(2, size, size)
    return 2 * size**3 / seconds(lambda: a @ b)


def step_seconds(config: TransformerConfig) -> float:
    """A training step on random tokens: forward, backward, Adam."""
    model, tokens = Transformer(config), torch.randint(config.vocab_size, (IMAGES, config.n_positions))
    optimiser = OptimConfig(lr=1e-3, total_steps=1).optimizer(model)

    def step() -> None:
        optimiser.zero_grad()
        autoregressive_nats(model(tokens), tokens).mean().backward()
        optimiser.step()

    return seconds(step)


def main() -> None:
    speed = product_speed()
    rows = []
    for name, side in (("nano", 8), ("nano", 16), ("xs", 16)):
        config = TransformerConfig(**PRESETS[name], vocab_size=128, n_positions=side**2)
        flops, measured = measure(config).flops * IMAGES, step_seconds(config)
        rows.append({
            "model": name,
            "pixels": f"{side}x{side}",
            "planned GFLOP a step": round(flops / 1e9, 2),
            "measured s a step": round(measured, 3),
            "GFLOP/s": round(flops / measured / 1e9, 1),
            "GFLOP/s of a product": round(speed / 1e9, 1),
            "utilisation": round(flops / measured / speed, 2),
        })  # fmt: skip
    notes = (
        f"{IMAGES} images a step, float32, {torch.get_num_threads()} threads, median of {REPETITIONS} steps. The last "
        "column is what igpt-plan calls utilisation, if the speed of a 2048 x 2048 product is taken for the peak."
    )
    write_table("plan", "Planned FLOPs and measured training steps", rows, notes)


if __name__ == "__main__":
    main()
