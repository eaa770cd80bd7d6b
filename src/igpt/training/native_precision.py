"""What `trainer.precision=auto` stands for on this machine."""

from __future__ import annotations

from pathlib import Path

import torch

CPUINFO = Path("/proc/cpuinfo")
BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # the last one is ARM's


def native_precision(accelerator: str) -> tuple[str, str]:
    """Lightning's name of the precision that suits the device behind `trainer.accelerator`, and the reason in words.

    It is bf16-mixed where products of bfloat16 numbers have instructions of their own, and 32-true elsewhere: without
    them, bfloat16 is slower than float32.
    """
    device = device_type(accelerator)
    title = {"cuda": "GPU", "mps": "device (MPS)", "cpu": "CPU"}[device]
    if multiplies_bfloat16(device):
        return "bf16-mixed", f"this {title} has instructions for bfloat16"
    return "32-true", f"no instructions for bfloat16 are known of this {title}"


def device_type(accelerator: str) -> str:
    """The kind of device, cuda, mps or cpu, that Lightning takes for an accelerator."""
    if accelerator == "cpu":
        return "cpu"
    if accelerator != "mps" and torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def multiplies_bfloat16(device: str) -> bool:
    """Whether a kind of device has instructions for products of bfloat16 numbers, as far as this can be known."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device == "cpu" and bool(BFLOAT16_FLAGS & cpu_flags())


def cpu_flags() -> set[str]:
    """The flags of the first core, as Linux lists them; none on another system."""
    try:
        with CPUINFO.open() as file:
            for line in file:
                name, _, flags = line.partition(":")
                if name.strip() in ("flags", "Features"):  # x86, ARM
                    return set(flags.split())
    except OSError:
        pass
    return set()
