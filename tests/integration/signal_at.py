"""A command that sends itself signals, and all processes of its group, at one moment: at the n-th call of a function.

SIGNAL_AT="SIGTERM igpt.training.callbacks.keep_last:KeepLast.on_train_start 1" python signal_at.py [arguments]
"""

import atexit
import os
import signal
import sys
import time
from importlib import import_module
from operator import attrgetter


def send_at(numbers, function, n):
    """At its n-th call, `function` ("module:Class.method") first sends the signals to the process group."""
    module, _, path = function.partition(":")
    *parents, name = path.split(".")
    holder = attrgetter(".".join(parents))(import_module(module)) if parents else import_module(module)
    real, calls = getattr(holder, name), []

    def sending(*arguments, **options):
        calls.append(name)
        if len(calls) == n:
            for number in numbers:
                os.killpg(0, number)
                time.sleep(0.2)  # for other processes to die of it, if they would
        return real(*arguments, **options)

    setattr(holder, name, sending)


def train():
    """igpt-train, with the signals that the environment names."""
    names, function, n = os.environ["SIGNAL_AT"].split()
    from igpt.cluster.signals import stop_signals
    from igpt.commands.train import main

    if "LOCAL_RANK" not in os.environ:  # the other process is in the group
        with stop_signals.listen():  # during the imports, too
            send_at([signal.Signals[name] for name in names.split(",")], function, int(n))
    main()


def train_in_fork(arguments, cwd, environment, output):
    """The same in a fork of a process that has imported everything, as a process of its own would do it."""
    os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    with open(os.devnull) as nothing, open(output, "wb") as file:
        os.dup2(nothing.fileno(), 0)
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = ["igpt-train", *arguments]
    try:
        train()
    finally:
        atexit._run_exitfuncs()  # which multiprocessing leaves out


if __name__ == "__main__":
    train()
