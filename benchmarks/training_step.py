"""A training step of igpt and of Hugging Face ImageGPT, from the same weights on the same tokens.

python benchmarks/training_step.py
python benchmarks/training_step.py --model s --device cuda --precisions fp32 bf16 --batch-size 32 --steps 20
python benchmarks/training_step.py --nanogpt FOLDER --precisions fp32 bf16 --name training_step_nanogpt
python benchmarks/training_step.py --profile --precisions fp32 bf16

Both forward, backward and Adam. The steps take turns and update the weights, so equal losses in the last step show that
the gradients were equal, too. A checkout of nanoGPT in FOLDER takes part with the same shapes, without biases; its
network differs (layer norm, GELU, tied embeddings), so its losses are not compared. `--profile` adds a table of where
the time of igpt's step goes on a CPU.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from statistics import median

import torch
import transformers
from sampling import hugging_face
from table import Cell, Row, write_table
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from igpt.model.config import PRESETS, TransformerConfig
from igpt.model.transformer import Transformer
from igpt.objectives.losses import autoregressive_nats
from igpt.training.callbacks.throughput import measured_flops

Loss = Callable[[Tensor], Tensor]

# Parts of a step, and the profiler's names of what they consist of.
PARTS = {
    "attention": (
        "igpt::bfloat16_attention",
        "igpt::bfloat16_attention_gradients",
        "aten::_scaled_dot_product_flash_attention_for_cpu",
        "aten::_scaled_dot_product_flash_attention_for_cpu_backward",
    ),
    "other products": ("aten::mm",),
    "norms": ("RMSNormFunction", "RMSNormFunctionBackward"),
    "activation": ("aten::silu", "aten::silu_backward"),
    "loss": (
        "aten::_log_softmax",
        "aten::_log_softmax_backward_data",
        "aten::nll_loss_forward",
        "aten::nll_loss_backward",
    ),
    "optimizer": ("Optimizer.step#Adam.step",),
}


class Way:
    """One way to train: a model, its loss, its optimizer, and what was measured of it."""

    def __init__(self, model: nn.Module, loss: Loss, device: torch.device, half: bool) -> None:
        self.loss, self.device, self.half = loss, device, half
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(self.parameters, lr=1e-4, betas=(0.9, 0.95), fused=device.type == "cuda")
        self.losses: list[float] = []
        self.seconds: list[float] = []
        self.saved = 0.0  # bytes that autograd keeps from forward to backward
        self.peak = 0.0  # bytes of tensors on the GPU

    def step(self, tokens: Tensor) -> None:
        start = time.perf_counter()
        with torch.autocast(self.device.type, torch.bfloat16) if self.half else nullcontext():
            loss = self.loss(tokens)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.losses.append(loss.item())  # waits for the device's forward pass
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - start)

    def measure_memory(self, tokens: Tensor) -> None:
        """Do a step and count the tensors that autograd saves, each storage once, without the weights."""
        weights = {p.untyped_storage().data_ptr() for p in self.parameters}
        sizes: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            self.step(tokens)
        self.saved = sum(sizes.values())
        self.peak = torch.cuda.max_memory_allocated() if self.device.type == "cuda" else 0


def our_way(start: Transformer, device: torch.device, half: bool, compiled: bool, checkpointed: bool) -> Way:
    model = Transformer(start.config)
    model.load_state_dict(start.state_dict())
    model.to(device).checkpointing = checkpointed
    if compiled:
        model.compile()
    return Way(model, lambda tokens: autoregressive_nats(model(tokens), tokens).mean(), device, half)


def their_way(start: Transformer, device: torch.device, half: bool, compiled: bool) -> Way:
    """Hugging Face's model without dropout. Its own loss leaves out the first pixel, so its logits are scored here."""
    model = hugging_face(start).to(device)
    for name, parameter in model.named_parameters():
        if name.endswith(".bias"):
            parameter.requires_grad_(False)  # the release has none: they stay zero
    if compiled:
        model.compile()
    token = start.config.vocab_size  # that stands for the start

    def loss(tokens: Tensor) -> Tensor:
        logits = model(F.pad(tokens[:, :-1], (1, 0), value=token), use_cache=False).logits
        return F.cross_entropy(logits.float().flatten(0, 1), tokens.flatten())

    return Way(model, loss, device, half)


def nanogpt_way(folder: Path, config: TransformerConfig, device: torch.device, half: bool, compiled: bool) -> Way:
    """The model in nanoGPT's model.py, with the optimizer of the others. Its first input stands for the start."""
    spec = importlib.util.spec_from_file_location("nanogpt_model", folder / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    shape = {name: getattr(config, name) for name in ("vocab_size", "n_layer", "n_head", "n_embd")}
    model = module.GPT(module.GPTConfig(block_size=config.n_positions, dropout=0.0, bias=False, **shape)).to(device)
    if compiled:
        model.compile()
    return Way(model, lambda tokens: model(F.pad(tokens[:, :-1], (1, 0)), tokens)[1], device, half)


def compare(start: Transformer, arguments: argparse.Namespace, precision: str) -> list[Row]:
    """One row a way, in one precision."""
    device, half = torch.device(arguments.device), precision == "bf16"
    ways = {
        "igpt": our_way(start, device, half, compiled=False, checkpointed=False),
        "igpt, blocks checkpointed": our_way(start, device, half, compiled=False, checkpointed=True),
        "Hugging Face": their_way(start, device, half, compiled=False),
    }
    if arguments.compile:
        ways["igpt, compiled"] = our_way(start, device, half, compiled=True, checkpointed=False)
    if arguments.compile_both:
        ways["Hugging Face, compiled"] = their_way(start, device, half, compiled=True)
    if arguments.nanogpt:
        ways["nanoGPT"] = nanogpt_way(arguments.nanogpt, start.config, device, half, compiled=False)
        if arguments.compile:
            ways["nanoGPT, compiled"] = nanogpt_way(arguments.nanogpt, start.config, device, half, compiled=True)
    generator = torch.Generator().manual_seed(0)
    shape = (1 + arguments.steps, arguments.batch_size, start.config.n_positions)
    batches = torch.randint(start.config.vocab_size, shape, generator=generator).to(device)
    for way in ways.values():
        way.measure_memory(batches[0])  # the first step warms up; it is not timed
        gc.collect()
    for tokens in batches[1:]:
        for way in ways.values():
            way.step(tokens)
    return [row(name, precision, ways, arguments.batch_size) for name in ways]


def row(name: str, precision: str, ways: dict[str, Way], batch_size: int) -> Row:
    way, theirs = ways[name], ways["Hugging Face"]
    nanogpt = ways.get("nanoGPT, compiled" if name.endswith("compiled") else "nanoGPT")
    seconds = median(way.seconds[1:])
    first, last = (f"{abs(way.losses[i] / theirs.losses[i] - 1):.1e}" for i in (0, -1))
    cells: dict[str, Cell] = {
        "implementation": name,
        "precision": precision,
        "milliseconds": round(1000 * seconds, 1),
        "images per second": round(batch_size / seconds, 2),
        "speedup over Hugging Face": speedup(way, theirs),
        "saved for backward, MB": round(way.saved / 1e6, 1),
        "% of Hugging Face": round(100 * way.saved / theirs.saved, 1),
    }
    if nanogpt is not None:
        cells["speedup over nanoGPT"] = speedup(way, nanogpt)
    if not name.startswith("nanoGPT"):
        cells |= {"loss difference, first step": first, "loss difference, last step": last}
    return {**cells, "peak on the GPU, GB": round(way.peak / 1e9, 2)} if way.peak else cells


def speedup(way: Way, other: Way) -> float:
    """The median ratio of steps that followed each other, which programs beside this one slow down alike."""
    return round(median(b / a for a, b in zip(way.seconds[1:], other.seconds[1:], strict=True)), 2)


def time_of_parts(start: Transformer, arguments: argparse.Namespace, precision: str) -> list[Row]:
    """One row per part of igpt's step in one precision, eager on a CPU."""
    way = our_way(start, torch.device("cpu"), precision == "bf16", compiled=False, checkpointed=False)
    tokens = torch.randint(start.config.vocab_size, (arguments.batch_size, start.config.n_positions))
    way.step(tokens)
    with profile(activities=[ProfilerActivity.CPU], with_flops=True) as profiled:
        for _ in range(arguments.steps):
            way.step(tokens)
    events = {event.key: event for event in profiled.key_averages()}
    total = sum(event.self_cpu_time_total for event in events.values())
    ceiling = measured_flops(torch.bfloat16 if precision == "bf16" else torch.float32)

    def cells(part: str, names: Iterable[str]) -> Row:
        found = [events[name] for name in names if name in events]
        microseconds, flops = sum(e.cpu_time_total for e in found), sum(e.flops for e in found)
        return {
            "part": part,
            "precision": precision,
            "% of the step": round(100 * microseconds / total, 1),
            "% of the fastest product": round(100 * flops / microseconds * 1e6 / ceiling) if flops else None,
        }

    rows = [cells(part, names) for part, names in PARTS.items()]
    shares = [share for r in rows if isinstance(share := r["% of the step"], float)]
    rest: Row = {"part": "everything else", "precision": precision, "% of the step": round(100 - sum(shares), 1)}
    return [*rows, rest]


def starting_model(arguments: argparse.Namespace) -> Transformer:
    """The shape that is asked for, with a head that is not zero, so that every gradient counts from the first step."""
    shape = {"n_layer": arguments.layers, "n_head": arguments.heads, "n_embd": arguments.width}
    config = PRESETS[arguments.model] if arguments.model else shape
    torch.manual_seed(0)
    model = Transformer(TransformerConfig(**config, vocab_size=arguments.colors, n_positions=arguments.side**2))
    nn.init.normal_(model.head.weight, std=0.02)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=PRESETS, help="instead of --width, --layers and --heads")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--side", type=int, default=32, help="image side in pixels")
    parser.add_argument("--colors", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--steps", type=int, default=5, help="that are timed")
    parser.add_argument("--precisions", choices=["fp32", "tf32", "bf16"], nargs="+", default=["fp32"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="CPU threads; by default torch's own choice")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--compile-both", action="store_true", help="compile Hugging Face's model, too")
    parser.add_argument("--nanogpt", type=Path, metavar="FOLDER", help="a checkout of nanoGPT, timed as well")
    parser.add_argument("--profile", action="store_true", help="also a table of the parts of igpt's step on a CPU")
    parser.add_argument("--name", default="training_step", help="of the files below benchmarks/results")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    start, rows = starting_model(arguments), []
    for precision in arguments.precisions:
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        rows += compare(start, arguments, precision)
    config = start.config
    shapes = (
        f"{config.n_layer} layers, width {config.n_embd}, {config.n_head} heads, {config.n_positions} tokens, "
        f"{config.vocab_size} colors, {arguments.batch_size} images per step; {arguments.device}, "
        f"{torch.get_num_threads()} CPU threads"
    )
    write_table(
        arguments.name,
        "A training step, compared with Hugging Face ImageGPT" + (" and nanoGPT" if arguments.nanogpt else ""),
        rows,
        f"{shapes}; transformers {transformers.__version__}. Forward, backward and Adam, "
        "same weights and tokens, no dropout, Hugging Face's biases fixed at zero. Medians of "
        f"{arguments.steps} steps in turn, after one warm-up. Speedups: medians of the ratios of steps that followed "
        "each other; over nanoGPT between eager and eager, compiled and compiled. Saved for backward: what autograd "
        "saves, each storage once, without the weights. Loss difference: relative to Hugging Face's loss, at equal "
        "weights in the first step, after all updates in the last.",
    )
    if arguments.profile:
        parts = [r for precision in arguments.precisions for r in time_of_parts(start, arguments, precision)]
        write_table(
            f"{arguments.name}_parts",
            "Where the time of a training step goes",
            parts,
            f"{shapes}. Forward, backward and Adam, eager. Fastest product: two matrices of 1024 x 1024 "
            "in the same precision.",
        )


if __name__ == "__main__":
    main()
