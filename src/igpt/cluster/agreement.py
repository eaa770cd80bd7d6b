"""Agreement between processes at every step, without waiting for a GPU or a slow network."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist


class DelayedMaximum:
    """The maximum over all processes of a value that each of them submits at every step.

    A single process gets its value back immediately. Several processes get the maximum of the step before: it is
    reduced on the CPU (by gloo) while the next step is computed. All processes get the same maximum at the same step.
    """

    def __init__(self) -> None:
        self._group: dist.ProcessGroup | None = None
        self._pending: tuple[torch.Tensor, Any] | None = None  # the result, and the handle to wait for it

    def start(self) -> None:
        """Call it in all processes once the process group is initialized, before the first :meth:`submit`."""
        self._pending = self._group = None
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            self._group = dist.new_group(backend="gloo")

    def submit(self, value: int) -> int:
        """Submit this process's value, 0 or more, and return the latest maximum.

        If that is above 0, the value is not submitted, so that no reduction is pending.
        """
        if self._group is None:
            return value
        if maximum := self.finish():
            return maximum
        result = torch.tensor([value], dtype=torch.int32, device="cpu")
        self._pending = result, dist.all_reduce(result, dist.ReduceOp.MAX, self._group, async_op=True)
        return 0

    def finish(self) -> int:
        """Wait for the pending reduction and return its maximum; 0 if none is pending."""
        if self._pending is None:
            return 0
        result, work = self._pending
        work.wait()
        self._pending = None
        return int(result.item())
