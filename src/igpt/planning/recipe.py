"""What a plan depends on, and what follows from it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from igpt.errors import IgptError
from igpt.model.config import TransformerConfig
from igpt.planning.compute import Duration, Size, duration, measure
from igpt.planning.devices import Device, Precision, find_precision
from igpt.planning.memory import Memory, activation_memory, largest_batch, state_memory

# Of a device's memory: CUDA's context, what the allocator cannot use, what communication needs.
SPARE = 0.1


@dataclass(frozen=True)
class Recipe:
    """A training: the model and what it is trained on, and with.

    `images` is the global batch of a step; a device takes at most `device_batch` of its share at once (None: all).
    """

    model: TransformerConfig
    resolution: int
    images: int
    device_batch: int | None
    steps: int
    optimizer: str
    precision_name: str
    device: Device
    devices: int
    utilization: float

    def __post_init__(self) -> None:
        if self.devices < 1 or self.steps < 1 or not 0 < self.utilization <= 1:
            raise IgptError(
                f"devices={self.devices}, trainer.max_steps={self.steps}, utilization={self.utilization}: a plan needs "
                "at least one device and one step, and a utilization in (0, 1]."
            )
        if self.images < 1 or self.images % self.devices or (self.device_batch or 1) < 1:
            raise IgptError(
                f"data.batch_size={self.images} and data.device_batch_size={self.device_batch} cannot be shared by "
                f"{self.devices} devices; choose a multiple of {self.devices}, and at least 1 image at once."
            )

    @cached_property
    def size(self) -> Size:
        return measure(self.model)

    @property
    def precision(self) -> Precision:
        return find_precision(self.precision_name)

    @property
    def accumulate(self) -> int:
        """Micro-batches a step: as few as `device_batch` allows, all of the same size, as the data module cuts them."""
        each = self.images // self.devices
        most = self.device_batch or each
        return next(n for n in range(1, each + 1) if each % n == 0 and each // n <= most)

    @property
    def micro_batch(self) -> int:
        """Images that go through one device at once."""
        return self.images // (self.devices * self.accumulate)

    @property
    def usable(self) -> float:
        """Bytes of a device that a training may take."""
        return self.device.memory * (1 - SPARE)

    def memory(self, images: int, checkpointed: bool) -> Memory:
        """Of one device with a micro-batch of `images`."""
        values = self.size.optimizer_values(self.optimizer)
        state = state_memory(self.size.parameters, values, self.precision, self.devices)
        return Memory(
            *state,
            *activation_memory(self.model, self.precision, images, checkpointed, self.device.fused_norm),
        )

    def largest_micro_batch(self, checkpointed: bool) -> int:
        """The most images a device can take at once; 0 if not even one fits."""
        return largest_batch(lambda images: self.memory(images, checkpointed).peak, self.usable)

    def micro_step(self) -> Duration:
        """One forward and backward pass of a device, nothing calculated again."""
        moved = self.memory(self.micro_batch, checkpointed=False).peak
        speed = self.device.speed(self.precision.arithmetic) * self.utilization
        return duration(self.size.flops * self.micro_batch, speed, moved, self.device.bandwidth)

    @property
    def step_seconds(self) -> float:
        return self.micro_step().seconds * self.accumulate
