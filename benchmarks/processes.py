"""A training step by one process with all cores, and by two processes that share the cores and the batch.

python benchmarks/processes.py
python benchmarks/processes.py --device cuda --model s --images 64     two GPUs instead of one
"""

from __future__ import annotations

import argparse
import os
import time
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from table import write_table
from torch import nn
from torch.multiprocessing import get_context
from torch.nn.parallel import DistributedDataParallel

from igpt.model.config import PRESETS, TransformerConfig
from igpt.model.transformer import Transformer
from igpt.objectives.losses import autoregressive_nats

PORT = "29531"


def work(rank: int, processes: int, threads: int, arguments: argparse.Namespace, results: Any) -> None:
    """Train on this process's share of each batch; the first process puts the seconds per step and the last loss."""
    torch.set_num_threads(threads)
    device = torch.device(arguments.device, rank) if arguments.device == "cuda" else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    torch.manual_seed(0)
    config = TransformerConfig(**PRESETS[arguments.model], vocab_size=512, n_positions=arguments.side**2)
    model: nn.Module = Transformer(config).to(device)
    if processes > 1:
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=PORT)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", rank=rank, world_size=processes)
        model = DistributedDataParallel(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=device.type == "cuda")
    shape = (1 + arguments.steps, arguments.images, config.n_positions)
    batches = torch.randint(config.vocab_size, shape, generator=torch.Generator().manual_seed(0))
    seconds, loss = [], torch.zeros(())
    for batch in batches:
        tokens = batch.chunk(processes)[rank].to(device)
        start = time.perf_counter()
        loss = autoregressive_nats(model(tokens), tokens).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    loss = loss.detach() / processes
    if processes > 1:
        dist.all_reduce(loss)
        dist.destroy_process_group()
    if rank == 0:
        results.put((median(seconds[1:]), loss.item()))


def measure(processes: int, arguments: argparse.Namespace) -> tuple[float, float]:
    """Seconds per step, and the loss of the last step, with this number of processes."""
    context = get_context("spawn")
    results = context.SimpleQueue()
    threads = max(1, torch.get_num_threads() // processes)
    children = [
        context.Process(target=work, args=(rank, processes, threads, arguments, results)) for rank in range(processes)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join()
        if child.exitcode:
            raise SystemExit(f"One of {processes} processes ended with status {child.exitcode}.")
    return results.get()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=PRESETS, default="nano")
    parser.add_argument("--side", type=int, default=32, help="image side in pixels")
    parser.add_argument("--images", type=int, default=8, help="images per step, over all processes")
    parser.add_argument("--steps", type=int, default=5, help="timed steps")
    parser.add_argument("--repetitions", type=int, default=3, help="of each number of processes, in turn")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--name", default="processes", help="of the files below benchmarks/results")
    arguments = parser.parse_args()
    runs = [[measure(processes, arguments) for processes in (1, 2)] for _ in range(arguments.repetitions)]
    one, two = (median(run[i][0] for run in runs) for i in range(2))
    rows = [
        {
            "processes": processes,
            "milliseconds per step": round(1000 * seconds, 1),
            "images per second": round(arguments.images / seconds, 2),
            "speedup": round(one / seconds, 2),
            "loss of the last step": f"{runs[0][processes - 1][1]:.7f}",
        }
        for processes, seconds in ((1, one), (2, two))
    ]
    shared = "one GPU per process" if arguments.device == "cuda" else f"{torch.get_num_threads()} CPU threads, shared"
    write_table(
        arguments.name,
        "A training step by one process and by two",
        rows,
        f"{arguments.model}, {arguments.side}x{arguments.side} pixels, 512 colors, {arguments.images} images per step "
        f"over all processes; float32, {shared}; DistributedDataParallel. Medians of {arguments.steps} steps after one "
        f"warm-up, and of {arguments.repetitions} alternating starts.",
    )


if __name__ == "__main__":
    main()
