"""What would make a training faster, said once: at its start, or as soon as its steps show it."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median, quantiles

from igpt.units import number_text, time_text

SMALL_BATCH = 2048  # tokens on one GPU
LONG_TRAINING = 10_000  # steps
WINDOW = 30  # steps that are looked at together
UNEVEN = 3.0  # times a typical step, which one in ten exceeds
STARVED = 0.5  # share of the time for which threads have a core


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


@dataclass
class StepTimes:
    """Notices, once, that the steps of a training on a CPU have to share its cores with something else.

    The `threads` of a step wait for each other after every operation, so that one without a core holds up all of them,
    most of all if they are busy waiting, as they are unless OMP_WAIT_POLICY is passive.
    """

    threads: int
    busy_waiting: bool = True
    _steps: list[tuple[float, float]] = field(default_factory=list)
    _told: bool = False

    def add(self, seconds: float, cpu_seconds: float) -> str | None:
        """Take note of a step and of the CPU time of all threads in it; a sentence if there is something to say."""
        if self._told:
            return None
        self._steps.append((seconds, cpu_seconds))
        if len(self._steps) < WINDOW:
            return None
        hint, self._steps = self._hint(), []
        self._told = hint is not None
        return hint

    def _hint(self) -> str | None:
        seconds, cpu_seconds = zip(*self._steps, strict=True)
        typical, slow = median(seconds), quantiles(seconds, n=10)[-1]
        cores = sum(cpu_seconds) / sum(seconds)
        if slow <= UNEVEN * typical and cores >= STARVED * self.threads:
            return None
        advice = " OMP_WAIT_POLICY=passive or OMP_NUM_THREADS=1 before the command may make it several times faster."
        return (
            f"Steps get {number_text(cores, 2)} of the {self.threads} CPU cores that their threads ask for, and one in "
            f"ten takes longer than {time_text(slow)}, a typical one {time_text(typical)}: other programs use the same "
            f"cores, or there is a limit on them.{advice if self.busy_waiting else ''} See docs/performance.md."
        )
