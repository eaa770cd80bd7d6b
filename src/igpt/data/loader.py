"""A data loader that survives the death of a worker process."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Iterator

from torch.utils.data import DataLoader

from igpt.batch import ImageBatch
from igpt.cluster.child_processes import Fork, Spawn, dead_child
from igpt.data.stream import EvaluationBatches, TrainingStream

log = logging.getLogger(__name__)


class BatchLoader(DataLoader[ImageBatch]):
    """Loads a data set that yields whole batches and can begin after the first n of them.

    If a worker dies, the main process reads the remaining batches, so that training can finish its step and save.
    `lost` then says how the worker died.
    """

    dataset: TrainingStream | EvaluationBatches
    lost: str | None = None

    def __init__(self, dataset: TrainingStream | EvaluationBatches, num_workers: int, pin_memory: bool) -> None:
        context = (Fork() if sys.platform == "linux" else Spawn()) if num_workers else None
        super().__init__(
            dataset, batch_size=None, num_workers=num_workers, pin_memory=pin_memory,
            multiprocessing_context=context, persistent_workers=num_workers > 0,
        )  # fmt: skip

    def __iter__(self) -> Iterator[ImageBatch]:  # type: ignore[override]
        n = 0
        try:
            for batch in self._from_workers():
                yield batch
                n += 1
        except Exception:
            self.lost = dead_child()
            if self.lost is None:
                raise
            log.warning("A data worker %s; the main process reads the remaining batches.", self.lost)
            yield from self.dataset.after(n)

    def _from_workers(self) -> Iterator[ImageBatch]:
        """Torch's iterator, without its handler of SIGCHLD.

        When a worker dies, that handler raises an error wherever the main process is, even while it saves. Without it,
        the error is raised where the next batch is awaited.
        """
        handler = signal.getsignal(signal.SIGCHLD)
        batches = super().__iter__()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, handler or signal.SIG_DFL)
        return batches
