"""What would make a training faster, said once at its start."""

from __future__ import annotations

from dataclasses import dataclass

SMALL_BATCH = 2048  # tokens on one GPU
LONG_TRAINING = 10_000  # steps


@dataclass(frozen=True)
class Speed:
    """What the speed of a training depends on, besides the size of its model.

    `capability` is CUDA's compute capability, (8, 0) for Ampere; None on a CPU. `arithmetic` is the number format of
    matrix products (fp32, bf16, fp16), `matmul_precision` what torch may make of fp32, `device_tokens` are those that
    go through one device at once.
    """

    capability: tuple[int, int] | None
    arithmetic: str
    matmul_precision: str
    head_size: int
    device_tokens: int
    steps: int
    compiled: bool


def hints(speed: Speed) -> list[str]:
    """One sentence for each thing worth changing; on a CPU, there is nothing."""
    if speed.capability is None:
        return []
    found = []
    if speed.arithmetic == "fp32" and speed.matmul_precision == "highest" and speed.capability >= (8, 0):
        found.append("This GPU multiplies faster with matmul_precision=high (TF32), or trainer.precision=bf16-mixed.")
    if speed.head_size % 8:
        found.append(
            f"Heads of size {speed.head_size} have to be padded for fused attention, or go without it; choose "
            "model.n_embd and model.n_head so that the size is a multiple of 8."
        )
    if speed.device_tokens < SMALL_BATCH:
        found.append(
            f"A GPU that gets {speed.device_tokens:,} tokens at once waits for its host most of the time; choose a "
            "larger data.batch_size or data.device_batch_size, or fewer GPUs."
        )
    if not speed.compiled and speed.steps > LONG_TRAINING:
        found.append(f"In {speed.steps:,} steps, compile=true makes up for the half minute that it takes.")
    return found
