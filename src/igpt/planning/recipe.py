"""What a plan depends on, and what follows from that."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from igpt.batch import n_micro_batches
from igpt.errors import IgptError
from igpt.model.config import TransformerConfig
from igpt.planning.compute import Duration, Size, duration, measure
from igpt.planning.devices import Device, Precision, find_precision
from igpt.planning.memory import FLOAT32, Memory, activation_memory, gathered_memory, largest_batch, state_memory

SPARE = 0.1  # fraction of a device's memory for CUDA's context, the allocator's fragments and communication


@dataclass(frozen=True)
class Recipe:
    """A training run: the model, its data, and the devices."""

    model: TransformerConfig
    resolution: int  # pixels per side
    batch_size: int  # images per step, over all devices
    device_batch_size: int | None  # the most images that a device takes at once; None: all of its share
    steps: int
    optimizer: str
    precision_name: str
    device: Device
    devices: int
    utilization: float
    averages: bool = False  # whether an average of the weights is kept beside them
    sharded: bool = False  # whether the devices share one model (trainer=fsdp)

    def __post_init__(self) -> None:
        if self.devices < 1 or self.steps < 1 or not 0 < self.utilization <= 1:
            raise IgptError(
                f"devices={self.devices}, trainer.max_steps={self.steps}, utilization={self.utilization}: a plan needs "
                "at least one device and one step, and a utilization in (0, 1]."
            )
        if self.batch_size < 1 or self.batch_size % self.devices or (self.device_batch_size or 1) < 1:
            raise IgptError(
                f"data.batch_size={self.batch_size} and data.device_batch_size={self.device_batch_size} cannot be "
                f"divided among {self.devices} devices; choose a multiple of {self.devices}, and at least 1 image at "
                "once."
            )

    @cached_property
    def size(self) -> Size:
        return measure(self.model)

    @property
    def precision(self) -> Precision:
        return find_precision(self.precision_name)

    @property
    def n_micro_batches(self) -> int:
        """Micro-batches per step."""
        return n_micro_batches(self.batch_size // self.devices, self.device_batch_size)

    @property
    def micro_batch(self) -> int:
        """Images on one device at once."""
        return self.batch_size // (self.devices * self.n_micro_batches)

    @property
    def usable(self) -> float:
        """Bytes of a device that are available for training."""
        return self.device.memory * (1 - SPARE)

    def memory(self, images: int, checkpointed: bool) -> Memory:
        """Memory of one device with a micro-batch of `images`."""
        values = self.size.optimizer_values(self.optimizer)
        state = state_memory(self.size.parameters, values, self.precision, self.devices, self.sharded)
        average = float(FLOAT32 * self.size.parameters) if self.averages else 0.0
        passes = activation_memory(self.model, self.precision, images, checkpointed)
        return Memory(*state, *passes, average, self._gathered if self.sharded else 0.0)

    @property
    def _gathered(self) -> float:
        block = self.size.block_matrices // self.model.n_layer
        return gathered_memory(self.size.parameters - self.size.block_matrices, block, self.precision)

    def largest_micro_batch(self, checkpointed: bool) -> int:
        """The most images that fit into a device at once; 0 if not even one does."""
        return largest_batch(lambda images: self.memory(images, checkpointed).peak, self.usable)

    def micro_step(self) -> Duration:
        """One forward and backward pass on a device, without recomputation."""
        moved = self.memory(self.micro_batch, checkpointed=False).peak
        speed = self.device.speed(self.precision.arithmetic) * self.utilization
        return duration(self.size.flops * self.micro_batch, speed, moved, self.device.bandwidth)

    @property
    def step_seconds(self) -> float:
        return self.micro_step().seconds * self.n_micro_batches
