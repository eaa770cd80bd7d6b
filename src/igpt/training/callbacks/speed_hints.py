"""Hints about settings that would make training faster: at its start, or once its steps show the reason."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median, quantiles

from igpt.units import number_text, time_text

SMALL_BATCH = 2048  # tokens per GPU
LONG_RUN = 10_000  # steps
WINDOW = 30  # steps that are examined together
UNEVEN = 3.0  # times the median step, which one step in ten exceeds
STARVED = 0.5  # share of the time in which the threads have a core


@dataclass(frozen=True)
class Speed:
    """What the speed of training depends on, besides the size of the model.

    `capability` is CUDA's compute capability, (8, 0) for Ampere; None on a CPU. `arithmetic` is the number format of
    matrix products (fp32, bf16, fp16), and `matmul_precision` is torch's setting for fp32. `device_tokens` are the
    tokens in the micro-batch of one device.
    """

    capability: tuple[int, int] | None
    arithmetic: str
    matmul_precision: str
    head_size: int
    device_tokens: int
    steps: int
    compiled: bool


def hints(speed: Speed) -> list[str]:
    """One sentence per setting that is worth changing; none on a CPU."""
    if speed.capability is None:
        return []
    found = []
    if speed.arithmetic == "fp32" and speed.matmul_precision == "highest" and speed.capability >= (8, 0):
        found.append("This GPU multiplies faster with matmul_precision=high (TF32), or trainer.precision=bf16-mixed.")
    if speed.head_size % 8:
        found.append(
            f"Fused attention pads heads of size {speed.head_size}, or does not support them; choose model.n_embd and "
            "model.n_head so that the size is a multiple of 8."
        )
    if speed.device_tokens < SMALL_BATCH:
        found.append(
            f"A GPU with {speed.device_tokens:,} tokens per micro-batch waits for its host most of the time; choose a "
            "larger data.batch_size or data.device_batch_size, or fewer GPUs."
        )
    if not speed.compiled and speed.steps > LONG_RUN:
        found.append(f"With {speed.steps:,} steps, compile=true saves more than the half minute that it takes.")
    return found


@dataclass
class StepTimes:
    """Detects that training on a CPU shares its cores with other programs; gives one hint at most.

    The `threads` of a step wait for each other after every operation, so one without a core delays all of them. It is
    worst if they are `busy_waiting`, as they are unless OMP_WAIT_POLICY is passive.
    """

    threads: int
    busy_waiting: bool = True
    _steps: list[tuple[float, float]] = field(default_factory=list)
    _hinted: bool = False

    def add(self, seconds: float, cpu_seconds: float) -> str | None:
        """Record the time of a step and the CPU time of all its threads; a hint, if these give a reason for one."""
        if self._hinted:
            return None
        self._steps.append((seconds, cpu_seconds))
        if len(self._steps) < WINDOW:
            return None
        hint, self._steps = self._hint(), []
        self._hinted = hint is not None
        return hint

    def _hint(self) -> str | None:
        seconds, cpu_seconds = zip(*self._steps, strict=True)
        usual, slow = median(seconds), quantiles(seconds, n=10)[-1]
        cores = sum(cpu_seconds) / sum(seconds)
        if slow <= UNEVEN * usual and cores >= STARVED * self.threads:
            return None
        advice = " OMP_WAIT_POLICY=passive or OMP_NUM_THREADS=1 before the command may make it several times faster."
        return (
            f"The {self.threads} threads of a step get {number_text(cores, 2)} CPU cores on average, and one step in "
            f"ten takes longer than {time_text(slow)} (median {time_text(usual)}): other programs use the same cores, "
            f"or their number is limited.{advice if self.busy_waiting else ''} See docs/performance.md."
        )
