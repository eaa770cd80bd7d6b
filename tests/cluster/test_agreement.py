"""Processes agree at the same step, and a single process does no work at all."""

import json
import subprocess
import sys

from torch.utils._python_dispatch import TorchDispatchMode

from igpt.cluster.agreement import DelayedMaximum

# What each of two processes submits at which step, and what both receive.
CASES = [
    (({}, {}), [0] * 6),
    (({2: 1}, {}), [0, 0, 0, 1]),
    (({}, {0: 2}), [0, 2]),
    (({1: 1}, {1: 2}), [0, 0, 2]),
    (({4: 1, 5: 1}, {1: 1}), [0, 0, 1]),
    (({}, {5: 1}), [0] * 6),  # too late for a step to receive it
]

PROCESS = """
import json, sys, time
import torch.distributed as dist
from igpt.cluster.agreement import DelayedMaximum
rank, cases, file = int(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3]
dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
for answers in cases:
    maximum, received = DelayedMaximum(), []
    maximum.start()
    for step in range(6):
        time.sleep(0.02 * rank)
        received.append(maximum.submit(answers[rank].get(str(step), 0)))
        if received[-1]:
            break
    maximum.finish()
    print(json.dumps(received))
"""


def test_two_processes_receive_the_same_maximum_one_step_later(tmp_path):
    cases = json.dumps([answers for answers, _ in CASES])
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(rank), cases, str(tmp_path / "store")],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in processes:
        lines = process.communicate(timeout=60)[0].splitlines()
        assert [json.loads(line) for line in lines] == [received for _, received in CASES]


class NoTensorWork(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        raise AssertionError(f"{function} was called")


def test_one_process_gets_its_value_back_without_any_tensor_work():
    alone = DelayedMaximum()
    with NoTensorWork():
        alone.start()
        assert [alone.submit(own) for own in (0, 2, 1)] == [0, 2, 1]
        assert not alone.finish()
