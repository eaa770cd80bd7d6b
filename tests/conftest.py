"""Shared fixtures: a cache of packed data for the whole session, tiny models, commands run in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
import torch

from igpt.model.config import TransformerConfig
from igpt.model.transformer import Transformer

Command = Callable[..., str]


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("IGPT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)


@pytest.fixture
def tiny() -> Transformer:
    """A causal model of 2 layers for pictures of 4x4 pixels and 11 colours, with weights large enough to matter."""
    return random_weights(TransformerConfig(n_layer=2, n_head=2, n_embd=16, vocab_size=11, n_positions=16))


def random_weights(config: TransformerConfig, std: float = 0.3) -> Transformer:
    """A model whose every parameter is random, the head and the gains too."""
    generator = torch.Generator().manual_seed(0)
    model = Transformer(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=std, generator=generator)
    return model.eval()


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command in an empty folder: command("train", "experiment=emoji_ar") gives what it printed.

    A command that ends with an error raises SystemExit, whose `code` is the message.
    """
    monkeypatch.chdir(tmp_path)

    def run(name: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [f"igpt-{name}", *arguments])
        import_module(f"igpt.commands.{name}").main()
        return capsys.readouterr().out

    return run
