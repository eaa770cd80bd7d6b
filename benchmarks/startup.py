"""Startup time: `--help` of every command, and the first training step of the demo.

python benchmarks/startup.py
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from importlib.metadata import entry_points
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import pytorch_lightning as pl
from table import Row, write_table


class FirstStep(pl.Callback):
    """Ends the process after the first training step."""

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        os._exit(0)


def seconds_of(command: str, *arguments: str, cwd: Path, **environment: str) -> float:
    """Seconds of a console script in a process of its own."""
    code = f"import sys; from igpt.commands.{command} import main; sys.argv[0] = 'igpt-{command}'; main()"
    start = time.perf_counter()
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=cwd, env={**os.environ, **environment}, capture_output=True,
        text=True,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    if result.returncode:
        sys.exit(f"igpt-{command} {' '.join(arguments)} failed:\n{result.stderr}")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--name", default="startup", help="of the files below benchmarks/results")
    arguments = parser.parse_args()
    scripts = entry_points(group="console_scripts")
    commands = sorted(script.name.removeprefix("igpt-") for script in scripts if script.value.startswith("igpt."))
    rows: list[Row] = []
    with TemporaryDirectory() as folder:
        here = Path(folder)

        def add(name: str, *run: str, **environment: str) -> None:
            took = [seconds_of(*run, cwd=here, **environment) for _ in range(arguments.repetitions)]
            rows.append(
                {"command": name, "seconds": round(median(took), 2), "slowest run, seconds": round(max(took), 2)}
            )

        for command in commands:
            add(f"igpt-{command} --help", command, "--help")
        demo = ("train", "experiment=emoji_modern", "logger=none", "+callbacks.first._target_=startup.FirstStep")
        path = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
        cache = {"IGPT_CACHE": str(here / "cache"), "PYTHONPATH": path}
        first = seconds_of(*demo, cwd=here, **cache)
        rows.append({"command": "first step of experiment=emoji_modern, first time", "seconds": round(first, 2)})
        add("first step of experiment=emoji_modern, data and palette cached", *demo, **cache)
    write_table(
        arguments.name,
        "Startup time",
        rows,
        f"Medians of {arguments.repetitions} processes; the first time, which packs the images and builds the palette, "
        "is a single process. The files of the installed packages were in the disk cache.",
    )


if __name__ == "__main__":
    main()
