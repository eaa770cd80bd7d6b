"""One answer of all processes to a question that each step asks, without waiting for a GPU."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist


class AnyOf:
    """Whether any process said yes. Every process asks once a step, and all hear the same in the same step.

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

    def ask(self, yes: bool) -> bool:
        """Say yes or no, and hear whether anybody said yes; after a yes no question is under way."""
        if self._group is None:
            return yes
        if self.hear():
            return True
        answer = torch.tensor([yes], dtype=torch.int32, device="cpu")
        self._asked = answer, dist.all_reduce(answer, dist.ReduceOp.MAX, self._group, async_op=True)
        return False

    def hear(self) -> bool:
        """The answer to the last question, if there is one under way."""
        if self._asked is None:
            return False
        answer, work = self._asked
        work.wait()
        self._asked = None
        return bool(answer.item())
