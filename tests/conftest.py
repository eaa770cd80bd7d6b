"""Shared fixtures: a cache of packed data for the whole session, tiny models, commands run in this process."""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import pytest
import torch

from igpt.cluster.child_processes import SIGNALS
from igpt.model.config import TransformerConfig
from igpt.model.transformer import Transformer

Command = Callable[..., str]


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("IGPT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    os.environ.pop("WANDB_SERVICE", None)  # of a test before; not put back after this one, which may end the service
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)


@pytest.fixture
def terminal() -> Iterator[None]:
    """Signals do what they do in a terminal, even if the tests run in the background, where some are ignored."""
    found = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    yield
    for number, handler in found.items():
        signal.signal(number, handler)


def together(function, n):
    """The function, whose first `n` calls, each of a thread of its own, all return at the same time."""
    barrier, calls = threading.Barrier(n), itertools.count()

    def called(*arguments):
        result = function(*arguments)
        if next(calls) < n:
            barrier.wait()
        return result

    return called


def wait_until(condition: Callable[[], object], seconds: float = 180) -> None:
    """Ask again and again until the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def ended(process: int) -> bool:
    """Whether a process is gone, or only waits for somebody to notice."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.fixture
def tiny() -> Transformer:
    """A causal model of 2 layers for images of 4x4 pixels and 11 colors, with weights large enough to matter."""
    return random_weights(TransformerConfig(n_layer=2, n_head=2, n_embd=16, vocab_size=11, n_positions=16))


def random_weights(config: TransformerConfig, std: float = 0.3, coordinates: torch.Tensor | None = None) -> Transformer:
    """A model whose every parameter is random, the head and the gains too."""
    generator = torch.Generator().manual_seed(0)
    model = Transformer(config, coordinates)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=std, generator=generator)
    return model.eval()


def run_command(name: str, *arguments: str, cwd: Path) -> None:
    """Run a command in this process and in the folder `cwd`: run_command("train", "experiment=emoji_ar", cwd=...).

    A command that ends with an error raises SystemExit, whose `code` is the message.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(cwd)
        patch.setattr(sys, "argv", [f"igpt-{name}", *arguments])
        import_module(f"igpt.commands.{name}").main()


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command in an empty folder; command("palette", "tokenizer.size=4") gives what it printed."""

    def run(name: str, *arguments: str) -> str:
        run_command(name, *arguments, cwd=tmp_path)
        return capsys.readouterr().out

    return run


# A model of one layer on 8x8 pixels in 16 colors: a few steps take a second. In float32 on every machine, so that
# numbers can be compared closely.
SMALL = (
    "experiment=emoji_ar", "logger=none", "data.source.resolution=8", "data.eval_batch_size=512", "tokenizer.size=16",
    "model.n_layer=1", "model.n_embd=32", "trainer.log_every_n_steps=1", "trainer.precision=32-true",
)  # fmt: skip


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of a small model after eight steps; tests must not change it."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IGPT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        run_command(
            "train", *SMALL, "hydra.run.dir=run", "trainer.max_steps=8", "trainer.val_check_interval=4",
            "sample_every=4", cwd=folder,
        )  # fmt: skip
    return folder / "run"


def train_two_steps(command: Command, folder: Path, data: str, *overrides: str) -> dict[str, float]:
    """Train a small model on `data` and return its summary."""
    few = ("trainer.max_steps=2", "trainer.val_check_interval=1", "sample_every=99", "image_class=null")
    palette = not any(override.startswith("tokenizer=") for override in overrides)
    small = [a for a in SMALL if palette or not a.startswith("tokenizer.size=")]
    command("train", *small, f"data={data}", "data.batch_size=4", *few, "hydra.run.dir=run", *overrides)
    summary: dict[str, float] = json.loads((folder / "run" / "summary.json").read_text())
    assert summary["steps"] == 2
    return summary
