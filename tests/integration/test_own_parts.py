"""A block variant from outside of igpt: one class in a module of the user's, one line in a config of the user's."""

import sys

import pytest
import torch

import igpt
from conftest import SMALL
from igpt.errors import IgptError
from igpt.generation.autoregressive import generate
from igpt.generation.sampling_config import SamplingConfig
from igpt.model.config import TransformerConfig

MODULE = """
from torch import Tensor
from torch.nn import functional as F

from igpt.model.transformer import MLP


class ReluSquared(MLP):
    def activate(self, x: Tensor) -> Tensor:
        return F.relu(x).square()
"""

CONFIG = """
defaults: [nano, _self_]
mlp: my_parts.ReluSquared
"""

FEW = (
    *SMALL, "model=my", "optim.total_steps=6", "trainer.val_check_interval=3", "sample_every=null", "save_every=1",
)  # fmt: skip


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder with the module, which Python finds, and a Hydra config directory: the arguments that name it."""
    (tmp_path / "my_parts.py").write_text(MODULE)
    (tmp_path / "my_conf" / "model").mkdir(parents=True)
    (tmp_path / "my_conf" / "model" / "my.yaml").write_text(CONFIG)
    monkeypatch.syspath_prepend(tmp_path)
    yield ("--config-dir", "my_conf")
    sys.modules.pop("my_parts", None)


def test_an_mlp_of_the_users_trains_resumes_samples_and_is_probed_and_planned(command, tmp_path, own, monkeypatch):
    command("train", *own, *FEW, "trainer.max_steps=6", "hydra.run.dir=whole")
    command("train", *own, *FEW, "trainer.max_steps=2", "hydra.run.dir=cut")
    command("train", "run=cut", "trainer.max_steps=6")
    whole, cut = (igpt.load(tmp_path / run, checkpoint="last").model for run in ("whole", "cut"))
    assert type(cut.blocks[0].mlp).__name__ == "ReluSquared"
    for ours, theirs in zip(whole.parameters(), cut.parameters(), strict=True):
        assert torch.equal(ours, theirs)

    prompt = torch.arange(8).view(2, 4)
    tokens = generate(cut, prompt, sampling=SamplingConfig(temperature=0))
    with torch.no_grad():
        assert torch.equal(cut(tokens).argmax(dim=-1)[:, 4:], tokens[:, 4:])

    probe = ("logger=none", "untrained=false", "probe.penalties=[0.1]", "probe.neighbors=1")
    assert "layer" in command("probe", "run=cut", *probe)
    shape = [argument for argument in SMALL if not argument.startswith(("data.eval", "trainer.", "logger"))]
    plan = command("plan", *own, *shape, "model=my", "device=laptop")
    assert f"parameters          {sum(p.numel() for p in cut.parameters()):,}\n" in plan

    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder != str(tmp_path)])
    sys.modules.pop("my_parts")
    with pytest.raises(IgptError, match=r"model.mlp is my_parts.ReluSquared; it cannot be imported .*PYTHONPATH"):
        igpt.load(tmp_path / "cut")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("relu", "it must be quick_gelu, gelu, relu2, swiglu or the path of a class"),
        ("missing.Relu", "it cannot be imported (No module named 'missing'); PYTHONPATH"),
        ("torch.nn.functional.relu", "it must be a class derived from torch.nn.Module"),
        ("torch.nn.Linear", "its constructor must take one argument"),
        ("3", "it must be quick_gelu, gelu, relu2, swiglu or"),
    ],
)
def test_what_cannot_be_a_part_gives_one_sentence(command, value, message):
    with pytest.raises(SystemExit) as error:
        command("plan", f"model.mlp={value}")
    assert f"model.mlp is {value}; {message}" in str(error.value.code)


def test_names_of_parts_are_checked_when_a_configuration_is_made():
    with pytest.raises(IgptError, match="model.norm is batch; it must be rms or the path of a class"):
        TransformerConfig(1, 1, 8, norm="batch")
