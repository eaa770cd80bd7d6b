"""Devices to train on, and their number formats."""

from __future__ import annotations

from dataclasses import dataclass

from igpt.errors import IgptError

TERA, GB = 1e12, 1e9


@dataclass(frozen=True)
class Precision:
    """A Lightning precision.

    The residual stream has the format of the weights, because autocast leaves additions and norms in it.
    """

    weight: int  # bytes
    activation: int  # bytes
    arithmetic: str  # format of matrix products

    @property
    def casts(self) -> bool:
        """Whether matrix products use copies of the weights in another format."""
        return self.weight != self.activation


PRECISIONS = {
    "32-true": Precision(4, 4, "fp32"),
    "bf16-mixed": Precision(4, 2, "bf16"),
    "16-mixed": Precision(4, 2, "fp16"),
    "bf16-true": Precision(2, 2, "bf16"),
    "16-true": Precision(2, 2, "fp16"),
}
SHORT_FORMS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


def find_precision(name: str) -> Precision:
    """The precision with Lightning's name; IgptError if igpt-plan does not know it."""
    known = SHORT_FORMS.get(name, name)
    if known not in PRECISIONS:
        raise IgptError(f"trainer.precision is '{name}'; igpt-plan knows {', '.join(PRECISIONS)}.")
    return PRECISIONS[known]


@dataclass(frozen=True)
class Device:
    """The limits of one device. Speeds, memory, bandwidth and power are those of the `source`."""

    title: str
    flops: dict[str, float]  # dense peak FLOP/s by number format
    memory: float  # bytes
    bandwidth: float  # bytes per second
    watts: float  # of the whole board
    price_per_hour: float  # US dollars, rented; an assumption
    source: str
    utilization: float = 0.4  # fraction of the peak that training reaches (MFU); an assumption

    @property
    def native_precision(self) -> str:
        """What trainer.precision=auto stands for on this device."""
        return "bf16-mixed" if "bf16" in self.flops else "32-true"

    def speed(self, arithmetic: str) -> float:
        """Dense peak FLOP/s in a number format; IgptError if the device does not support it."""
        if arithmetic not in self.flops:
            precisions = {"bf16": "bf16-mixed", "fp16": "16-mixed", "fp32": "32-true"}
            supported = " or ".join(precisions[name] for name in self.flops)
            raise IgptError(f"{self.title} does not support {arithmetic}; choose trainer.precision={supported}.")
        return self.flops[arithmetic]


# fp32 is the speed of true float32, torch's default. TF32 (H100, H200: 495, A100: 156, RTX 4090: 83 TFLOP/s) has to be
# enabled. Where a data sheet gives speeds with sparsity, half of them is used.
DEVICES = {
    "h100": Device(
        "H100 SXM", {"bf16": 989.4 * TERA, "fp16": 989.4 * TERA, "fp32": 67 * TERA}, 80 * GB, 3350 * GB, 700, 3.0,
        "NVIDIA H100 Tensor Core GPU data sheet",
    ),
    "h200": Device(
        "H200 SXM", {"bf16": 989.4 * TERA, "fp16": 989.4 * TERA, "fp32": 67 * TERA}, 141 * GB, 4800 * GB, 700, 3.8,
        "NVIDIA H200 Tensor Core GPU data sheet",
    ),
    "a100": Device(
        "A100 SXM 80GB", {"bf16": 312 * TERA, "fp16": 312 * TERA, "fp32": 19.5 * TERA}, 80 * GB, 2039 * GB, 400, 1.8,
        "NVIDIA A100 Tensor Core GPU data sheet",
    ),
    "v100": Device(
        "V100 SXM2 32GB", {"fp16": 125 * TERA, "fp32": 15.7 * TERA}, 32 * GB, 900 * GB, 300, 0.8,
        "NVIDIA V100 Tensor Core GPU data sheet",
    ),
    "rtx4090": Device(
        "RTX 4090", {"bf16": 165.2 * TERA, "fp16": 165.2 * TERA, "fp32": 82.6 * TERA}, 24 * GB, 1008 * GB, 450, 0.5,
        "NVIDIA Ada GPU Architecture white paper (16-bit with float32 sums)",
    ),
    "laptop": Device(
        "laptop CPU", {"fp32": 0.384 * TERA}, 16 * GB, 76.8 * GB, 45, 0.0,
        "computed: 4 cores of 3 GHz with two 8-wide FMA units, two channels of DDR5-4800",
        utilization=0.5,
    ),
}  # fmt: skip


def find_device(name: str) -> Device:
    """The device with this name; IgptError if there is none."""
    if name not in DEVICES:
        raise IgptError(f"device is '{name}'; choose one of {', '.join(DEVICES)}.")
    return DEVICES[name]
