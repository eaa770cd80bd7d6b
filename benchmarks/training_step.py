"""A training step of igpt and of Hugging Face ImageGPT, from the same weights on the same tokens.

python benchmarks/training_step.py
python benchmarks/training_step.py --model s --device cuda --precisions fp32 bf16 --batch-size 32 --steps 20

Both forward, backward and Adam. The steps take turns and update the weights, so equal losses in the last step show that
the gradients were equal, too.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable
from contextlib import nullcontext
from statistics import median

import torch
import transformers
from sampling import hugging_face
from table import Row, write_table
from torch import Tensor, nn
from torch.nn import functional as F

from igpt.model.config import PRESETS, TransformerConfig
from igpt.model.transformer import Transformer
from igpt.objectives.losses import autoregressive_nats

Loss = Callable[[Tensor], Tensor]


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
    generator = torch.Generator().manual_seed(0)
    shape = (1 + arguments.steps, arguments.batch_size, start.config.n_positions)
    batches = torch.randint(start.config.vocab_size, shape, generator=generator).to(device)
    for way in ways.values():
        way.measure_memory(batches[0])  # the first step warms up; it is not timed
        gc.collect()
    for tokens in batches[1:]:
        for way in ways.values():
            way.step(tokens)
    theirs = ways["Hugging Face"]
    return [row(name, precision, way, theirs, arguments.batch_size) for name, way in ways.items()]


def row(name: str, precision: str, way: Way, theirs: Way, batch_size: int) -> Row:
    seconds, base = median(way.seconds[1:]), median(theirs.seconds[1:])
    first, last = (abs(way.losses[i] / theirs.losses[i] - 1) for i in (0, -1))
    cells: Row = {
        "implementation": name,
        "precision": precision,
        "milliseconds": round(1000 * seconds, 1),
        "images per second": round(batch_size / seconds, 2),
        "speedup over Hugging Face": round(base / seconds, 2),
        "saved for backward, MB": round(way.saved / 1e6, 1),
        "% of Hugging Face": round(100 * way.saved / theirs.saved, 1),
        "loss difference, first step": f"{first:.1e}",
        "loss difference, last step": f"{last:.1e}",
    }
    return {**cells, "peak on the GPU, GB": round(way.peak / 1e9, 2)} if way.peak else cells


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
    parser.add_argument("--name", default="training_step", help="of the files below benchmarks/results")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    start, rows = starting_model(arguments), []
    for precision in arguments.precisions:
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        rows += compare(start, arguments, precision)
    config = start.config
    write_table(
        arguments.name,
        "A training step, compared with Hugging Face ImageGPT",
        rows,
        f"{config.n_layer} layers, width {config.n_embd}, {config.n_head} heads, {config.n_positions} tokens, "
        f"{config.vocab_size} colors, {arguments.batch_size} images per step; {arguments.device}, "
        f"{torch.get_num_threads()} CPU threads; transformers {transformers.__version__}. Forward, backward and Adam, "
        "same weights and tokens, no dropout, Hugging Face's biases fixed at zero. Medians of "
        f"{arguments.steps} steps in turn, after one warm-up. Saved for backward: the tensors that autograd saves, "
        "each storage once, without the weights. Loss difference: relative to Hugging Face's loss, at equal weights in "
        "the first step, after all updates in the last.",
    )


if __name__ == "__main__":
    main()
