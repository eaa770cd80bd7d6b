"""What logging adds to a training step: metrics.csv, W&B offline, and the default callbacks, at the default intervals.

python benchmarks/logging_cost.py
python benchmarks/logging_cost.py --recipe trainer=gpu model=s data.batch_size=64 --blocks 100

One run of igpt-train logs in every other block of steps. A block ends with a logged step. In the blocks between, there
are no loggers, and no callbacks but those without which a run could not be resumed. Validations and samples are left
out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from typing import Any

import pytorch_lightning as pl
import torch
from table import write_table

from igpt.training.callbacks.keep_last import KeepLast
from igpt.training.callbacks.step_counters import StepCounters

NEVER = 1_000_000_000


class Alternate(pl.Callback):
    """Switches logging on and off from block to block, as on, off, off, on, ..., and writes the seconds of each block
    to `file`: pairs of with and without. The first two blocks warm up.
    """

    def __init__(self, file: str) -> None:
        self.file = Path(file)
        self.seconds: list[tuple[bool, float]] = []  # of each block, and whether it logged
        self._start: float | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.interval: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        self.everything = trainer.callbacks, trainer.loggers  # type: ignore[attr-defined]
        needed = [c for c in trainer.callbacks if isinstance(c, StepCounters | KeepLast | Alternate)]  # type: ignore[attr-defined]
        self.nothing: tuple[list[Any], list[Any]] = needed, []

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx % (self.interval * trainer.accumulate_grad_batches):
            return  # in the middle of a block
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        if self._start is not None:
            self.seconds.append((self._logs, now - self._start))
        self._logs = len(self.seconds) % 4 in (0, 3)
        trainer.callbacks, trainer.loggers = self.everything if self._logs else self.nothing  # type: ignore[attr-defined]
        trainer.log_every_n_steps = self.interval if self._logs else NEVER  # type: ignore[attr-defined]
        self._start = time.perf_counter()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        blocks = self.seconds[2:]
        pairs = [dict(blocks[i : i + 2]) for i in range(0, len(blocks) - 1, 2)]
        self.file.write_text(json.dumps([[pair[True], pair[False]] for pair in pairs]))
        trainer.callbacks, trainer.loggers = self.everything  # type: ignore[attr-defined]


def measure(recipe: list[str], blocks: int) -> tuple[list[list[float]], int]:
    """Seconds of blocks with and without logging, in pairs, and the number of steps in a block."""
    with TemporaryDirectory() as folder:
        config = subprocess.run(
            [sys.executable, "-m", "igpt.commands.train", *recipe, "--cfg", "job", "--package", "trainer"],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        interval = int(config.partition("log_every_n_steps: ")[2].split()[0])
        result = Path(folder, "seconds.json")
        steps = (blocks + 3) * interval  # two blocks warm up; the last one has no end
        arguments = [
            *recipe, f"hydra.run.dir={folder}/run", "logger.wandb.offline=true", f"trainer.max_steps={steps}",
            f"trainer.val_check_interval={steps}", "save_every=null", "sample_every=null",
            "+callbacks.alternate._target_=logging_cost.Alternate", f"+callbacks.alternate.file={result}",
        ]  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
        subprocess.run([sys.executable, "-m", "igpt.commands.train", *arguments], env=environment, check=True)
        return json.loads(result.read_text()), interval


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", nargs="+", default=["experiment=emoji_ar"], help="arguments of igpt-train")
    parser.add_argument("--blocks", type=int, default=60, help="half of them with logging")
    parser.add_argument("--name", default="logging_cost", help="of the files below benchmarks/results")
    arguments = parser.parse_args()
    pairs, interval = measure(arguments.recipe, arguments.blocks)
    logging, plain = ([pair[i] / interval for pair in pairs] for i in (0, 1))
    percent = [100 * (a / b - 1) for a, b in zip(logging, plain, strict=True)]
    low, middle, high = quantiles(percent, n=4)
    row = {
        "recipe": " ".join(arguments.recipe),
        "ms per step without logging": round(1e3 * median(plain), 2),
        "ms per step with logging": round(1e3 * median(logging), 2),
        "added, %": round(middle, 2),
        "first quartile": round(low, 2),
        "third quartile": round(high, 2),
    }
    notes = (
        f"Medians of {len(pairs)} pairs of blocks of {interval} steps, which took turns in one run; one step in "
        f"{interval} is logged. Added: median and quartiles of the pairs."
    )
    write_table(arguments.name, "What logging adds to a training step", [row], notes)


if __name__ == "__main__":
    main()
