"""Processes agree in the same step, and one alone does no work at all."""

import json
import subprocess
import sys

from torch.utils._python_dispatch import TorchDispatchMode

from igpt.training.agreement import AnyOf

# In which steps each of two processes says yes, and what both hear.
CASES = [
    (([], []), [False] * 6),
    (([2], []), [False, False, False, True]),
    (([], [0]), [False, True]),
    (([4, 5], [1]), [False, False, True]),
    (([], [5]), [False] * 6),  # too late for a step to hear of it
]

PROCESS = """
import json, sys, time
import torch.distributed as dist
from igpt.training.agreement import AnyOf
rank, cases, file = int(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3]
dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
for says_yes in cases:
    anybody, heard = AnyOf(), []
    anybody.open()
    for step in range(6):
        time.sleep(0.02 * rank)
        heard.append(anybody.ask(step in says_yes[rank]))
        if heard[-1]:
            break
    anybody.hear()
    print(json.dumps(heard))
"""


def test_two_processes_hear_the_same_one_step_later(tmp_path):
    cases = json.dumps([says_yes for says_yes, _ in CASES])
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
        assert [json.loads(line) for line in lines] == [heard for _, heard in CASES]


class NoTensorWork(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        raise AssertionError(f"{function} was called")


def test_one_process_hears_itself_at_once_and_without_any_work():
    alone = AnyOf()
    with NoTensorWork():
        alone.open()
        assert [alone.ask(yes) for yes in (False, True, False)] == [False, True, False]
        assert not alone.hear()
