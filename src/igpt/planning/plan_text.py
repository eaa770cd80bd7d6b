"""A plan as blocks of rows, for people."""

from __future__ import annotations

from igpt.model.cache import cache_bytes
from igpt.planning.compute import energy, price
from igpt.planning.recipe import SPARE, Recipe
from igpt.units import number_text, time_text

Rows = list[tuple[str, ...]]  # a name, and what stands in the columns behind it

PARTS = ("weights", "gradients", "optimizer", "activations", "logits", "recomputed", "peak")


def recipe_rows(recipe: Recipe) -> Rows:
    model, device = recipe.model, recipe.device
    side, speed = recipe.resolution, device.speed(recipe.precision.arithmetic)
    kind = "causal" if model.causal else "masked"
    cut = f"devices {recipe.devices} x micro-batches {recipe.accumulate} x images {recipe.micro_batch}"
    return [
        ("model", f"{model.n_layer} blocks, width {model.n_embd}, {model.n_head} heads, {kind}"),
        ("images", f"{side}x{side} pixels, {model.n_positions:,} tokens, {model.vocab_size} different ones"),
        ("batch", f"{recipe.images} = {cut}"),
        ("steps", f"{recipe.steps:,} with {recipe.optimizer}"),
        ("device", f"{device.title}, {speed / 1e12:,.4g} TFLOP/s in {recipe.precision_name}"),
        ("source", device.source),
    ]


def model_rows(recipe: Recipe) -> Rows:
    size, images = recipe.size, recipe.images * recipe.steps
    tokens = images * recipe.model.n_positions
    return [
        ("parameters", f"{size.parameters:,}"),
        ("tokens", f"{tokens:.3g} of {images:,} images, {number_text(tokens / size.parameters, 3)} a parameter"),
        ("FLOPs of an image", f"{size.flops:.3g}, {size.attention_flops / size.flops:.0%} of them in attention"),
        ("FLOPs of a step", f"{size.flops * recipe.images:.3g}"),
        ("FLOPs of all steps", f"{size.flops * images:.3g}"),
        ("", "Forward and backward; attention in full, causal or not; nothing that is calculated again."),
    ]


def memory_rows(recipe: Recipe) -> Rows:
    both = [recipe.memory(recipe.micro_batch, checkpointed) for checkpointed in (False, True)]
    fits = ("yes" if memory.peak <= recipe.usable else "no" for memory in both)
    return [
        ("", "all kept", "blocks checkpointed"),
        *((part, *(f"{getattr(memory, part) / 1e9:.3f}" for memory in both)) for part in PARTS),
        (f"within {recipe.usable / 1e9:.1f}", *fits),
        ("", f"{recipe.device.memory / 1e9:.0f} GB less {SPARE:.0%}: context, allocator, communication."),
        ("", "The peak is not the sum: logits and recomputed block, activations and optimizer's step take turns."),
    ]


def fit_rows(recipe: Recipe) -> Rows:
    """The largest micro-batch, or what stands in its way."""
    rows: Rows = []
    for name, checkpointed in (("all kept", False), ("checkpointed", True)):
        most, one = recipe.largest_micro_batch(checkpointed), recipe.memory(1, checkpointed)
        none = (
            f"none: with a single image the peak is {one.peak / 1e9:.1f} GB, of which {one.state / 1e9:.1f} are state"
        )
        rows.append((name, f"data.device_batch_size={most}" if most else none))
    return rows


def cost_rows(recipe: Recipe, watts: float, price_per_hour: float) -> Rows:
    """`watts` and `price_per_hour` are one device's."""
    once, step = recipe.micro_step(), recipe.step_seconds
    seconds, devices = step * recipe.steps, recipe.devices
    bound = f"arithmetic at {recipe.utilization:.0%} of the peak" if once.arithmetic_bound else "memory traffic"
    return [
        ("a step", f"{time_text(step)}, bound by {bound}"),
        ("images a second", number_text(recipe.images / step, 4)),
        ("all steps", time_text(seconds)),
        ("energy", f"{number_text(energy(seconds, devices, watts), 3)} kWh at {watts:g} W a device"),
        ("price", f"{price(seconds, devices, price_per_hour):,.2f} at {price_per_hour:g} an hour and device"),
        ("", "Assumptions until you give them: utilization, price_per_hour (US dollars)."),
        ("", "Not counted: a third more for checkpointing, communication, data, validation, drawing, the host."),
    ]


def drawing_rows(recipe: Recipe, pictures: int) -> Rows:
    """What `pictures` drawn at once take, in float32, as models are loaded."""
    if not recipe.model.causal:
        return [("cache", "none: a masked model draws in a few passes over whole pictures")]
    cache, weights = cache_bytes(recipe.model, pictures), 4 * recipe.size.parameters
    seconds = recipe.model.n_positions * (weights + cache / 2) / recipe.device.bandwidth
    return [
        ("cache", f"{cache / 1e9:.3f} GB of keys and values for {pictures} pictures"),
        ("time", f"at least {time_text(seconds)}, to read the weights and half the cache for every token"),
    ]


def text(title: str, rows: Rows) -> str:
    """One block: the title, the names and the columns behind them aligned."""
    lines = [f"  {name:18}  {'  '.join(cell.ljust(10) for cell in cells)}".rstrip() for name, *cells in rows]
    return "\n".join([title, *lines, ""])
