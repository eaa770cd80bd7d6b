"""One answer of all processes to a question that each step asks, without waiting for a GPU."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist


class Highest:
    """The highest answer of all processes. Every process asks once a step, and all hear the same in the same step.

    One process has its answer at once. Several hear that of the step before: it travels between the hosts (by gloo)
    while the next step is computed, so that neither a device nor a slow network is waited for.
    """

    def __init__(self) -> None:
        self._group: dist.ProcessGroup | None = None
        self._asked: tuple[torch.Tensor, Any] | None = None  # the answer, and when it is there

    def open(self) -> None:
        """To be called by all processes before they ask, when those that there will be have been started."""
        self._asked = self._group = None
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            self._group = dist.new_group(backend="gloo")

    def ask(self, own: int) -> int:
        """Say one's own answer, 0 or more, and hear the highest; after one above 0 no question is under way."""
        if self._group is None:
            return own
        if heard := self.hear():
            return heard
        answer = torch.tensor([own], dtype=torch.int32, device="cpu")
        self._asked = answer, dist.all_reduce(answer, dist.ReduceOp.MAX, self._group, async_op=True)
        return 0

    def hear(self) -> int:
        """The answer to the last question, if there is one under way; else 0."""
        if self._asked is None:
            return 0
        answer, work = self._asked
        work.wait()
        self._asked = None
        return int(answer.item())
