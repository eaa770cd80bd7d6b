"""A plan as blocks of rows, to be printed."""

from __future__ import annotations

from igpt.model.cache import cache_bytes
from igpt.planning.compute import energy, price
from igpt.planning.proposal import Proposal
from igpt.planning.recipe import SPARE, Recipe
from igpt.units import number_text, time_text

Rows = list[tuple[str, ...]]  # a name and the cells of one or more columns

PARTS = ("weights", "gradients", "optimizer", "average", "gathered", "activations", "logits", "recomputed", "peak")


def proposal_rows(proposal: Proposal) -> Rows:
    model, law = proposal.model, proposal.law
    error = law.loss_error(proposal.size.parameters, proposal.tokens)
    size = " ".join(f"model.{name}={getattr(model, name)}" for name in ("n_layer", "n_head", "n_embd"))
    return [
        ("arguments", f"{size} trainer.max_steps={proposal.steps}"),
        ("loss", f"{proposal.loss:.4f} nats per token, standard error {error:.4f}"),
        ("law", f"of {law.runs} runs on {law.data}: L = E + A (N / 1e6)^-alpha + B (D / 1e6)^-beta"),
        ("", f"{law}"),
        *(("warning", warning) for warning in proposal.warnings),
    ]


def recipe_rows(recipe: Recipe) -> Rows:
    model, device = recipe.model, recipe.device
    side, speed = recipe.resolution, device.speed(recipe.precision.arithmetic)
    kind = "causal" if model.causal else "masked"
    parts = "".join(f", {name}={part}" for name, part in model.other_parts.items())
    cut = f"devices {recipe.devices} x micro-batches {recipe.n_micro_batches} x images {recipe.micro_batch}"
    return [
        ("model", f"{model.n_layer} blocks, width {model.n_embd}, {model.n_head} heads, {kind}{parts}"),
        ("images", f"{side}x{side} pixels, {model.n_positions:,} tokens, vocabulary of {model.vocab_size}"),
        ("batch", f"{recipe.batch_size} = {cut}"),
        ("steps", f"{recipe.steps:,} with {recipe.optimizer}"),
        ("device", f"{device.title}, {speed / 1e12:,.4g} TFLOP/s in {recipe.precision_name}"),
        ("source", device.source),
    ]


def model_rows(recipe: Recipe) -> Rows:
    size, images = recipe.size, recipe.batch_size * recipe.steps
    tokens = images * recipe.model.n_positions
    return [
        ("parameters", f"{size.parameters:,}"),
        ("tokens", f"{tokens:.3g} of {images:,} images, {number_text(tokens / size.parameters, 3)} per parameter"),
        ("FLOPs per image", f"{size.flops:.3g}, {size.attention_flops / size.flops:.0%} of them in attention"),
        ("FLOPs per step", f"{size.flops * recipe.batch_size:.3g}"),
        ("FLOPs of all steps", f"{size.flops * images:.3g}"),
        ("", "Forward and backward pass; attention in full, causal or not; without recomputation."),
    ]


def memory_rows(recipe: Recipe) -> Rows:
    both = [recipe.memory(recipe.micro_batch, checkpointed) for checkpointed in (False, True)]
    fits = ("yes" if memory.peak <= recipe.usable else "no" for memory in both)
    optional = {"average": recipe.averages, "gathered": recipe.sharded}
    parts = (part for part in PARTS if optional.get(part, True))
    return [
        ("checkpointing", "off", "on"),
        *((part, *(f"{getattr(memory, part) / 1e9:.3f}" for memory in both)) for part in parts),
        (f"fits {recipe.usable / 1e9:.1f} GB", *fits),
        ("", f"{recipe.device.memory / 1e9:.0f} GB minus {SPARE:.0%} for context, allocator and communication."),
        ("", "The peak is not the sum, since not all of these are in memory at the same time."),
        *([("", "Activations are estimated for blocks of the default parts.")] if recipe.model.other_parts else []),
    ]


def fit_rows(recipe: Recipe) -> Rows:
    """The largest micro-batch, or why there is none."""
    rows: Rows = []
    for name, checkpointed in (("checkpointing off", False), ("checkpointing on", True)):
        most, one = recipe.largest_micro_batch(checkpointed), recipe.memory(1, checkpointed)
        peak, state = one.peak / 1e9, one.state / 1e9
        none = f"none: with a single image the peak is {peak:.1f} GB, of which {state:.1f} GB are state"
        rows.append((name, f"data.device_batch_size={most}" if most else none))
    return rows


def cost_rows(recipe: Recipe, watts: float, price_per_hour: float) -> Rows:
    """Time, energy and price; `watts` and `price_per_hour` are those of one device."""
    once, step = recipe.micro_step(), recipe.step_seconds
    seconds, devices = step * recipe.steps, recipe.devices
    bound = f"arithmetic at {recipe.utilization:.0%} of the peak" if once.arithmetic_bound else "memory traffic"
    return [
        ("per step", f"{time_text(step)}, bound by {bound}"),
        ("images per second", number_text(recipe.batch_size / step, 4)),
        ("all steps", time_text(seconds)),
        ("energy", f"{number_text(energy(seconds, devices, watts), 3)} kWh at {watts:g} W per device"),
        ("price", f"{price(seconds, devices, price_per_hour):,.2f} at {price_per_hour:g} per hour and device"),
        ("", "Assumptions unless given: utilization, price_per_hour (US dollars)."),
        ("", "Not included: checkpointing (a third more), communication, data loading, validation, sampling."),
    ]


def sampling_rows(recipe: Recipe, images: int) -> Rows:
    """The cost of generating `images` at once in float32, the format of a loaded model."""
    if not recipe.model.causal:
        return [("cache", "none: a masked model generates in a few passes over whole images")]
    cache, weights = cache_bytes(recipe.model, images), 4 * recipe.size.parameters
    seconds = recipe.model.n_positions * (weights + cache / 2) / recipe.device.bandwidth
    return [
        ("cache", f"{cache / 1e9:.3f} GB of keys and values for {images} images"),
        ("time", f"at least {time_text(seconds)}, to read the weights and half the cache for each token"),
    ]


def text(title: str, rows: Rows) -> str:
    """One block: the title, then names and columns, aligned."""
    lines = [f"  {name:18}  {'  '.join(cell.ljust(10) for cell in cells)}".rstrip() for name, *cells in rows]
    return "\n".join([title, *lines, ""])
