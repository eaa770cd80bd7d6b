"""docs/extending.md: commands and tests run as they are written there, from outside the package."""

import json
import re
import runpy
import shlex
from pathlib import Path

import pytest

import igpt
from conftest import run_command

PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")
SECTIONS = dict(section.split("\n", 1) for section in PAGE.split("\n## ")[1:])

# What makes the commands cheap: two steps of a model of one layer, few samples.
SMALL_MODEL = ("model.n_layer=1", "model.n_embd=32")
CHEAPER = {
    "igpt-train": (
        *SMALL_MODEL, "trainer=cpu", "trainer.max_steps=2", "trainer.val_check_interval=1", "logger=none",
        "trainer.log_every_n_steps=1", "sample_every=null", "data.processes=1",
    ),
    "igpt-train run": ("trainer.max_steps=3",),
    "igpt-plan": SMALL_MODEL,
    "igpt-probe run": ("untrained=false", "logger=none"),
    "igpt-sample run": ("n=2", "completions=0"),
    "igpt-evaluate run": (),
}  # fmt: skip


def code_in(text: str, *kinds: str) -> list[str]:
    return [code for kind, code in re.findall(r"^```(\w+)\n(.*?)^```", text, re.M | re.S) if kind in kinds]


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """A folder with the files of the page, in which a section's tests and commands run; the folder of its runs."""
    for code in code_in(PAGE, "python", "yaml"):
        file = tmp_path / code.split("\n")[0].removeprefix("# ")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(code)
    monkeypatch.syspath_prepend(tmp_path)

    def run(title):
        for code in code_in(SECTIONS[title], "python"):
            names = runpy.run_path(str(tmp_path / code.split("\n")[0].removeprefix("# ")))
            for function in (value for name, value in names.items() if name.startswith("test_")):
                function()
        for line in "\n".join(code_in(SECTIONS[title], "bash")).splitlines():
            program, *words = shlex.split(line)
            of_run = " run" if any(word.startswith("run=") for word in words) else ""
            run_command(program.removeprefix("igpt-"), *words, *CHEAPER[program + of_run], cwd=tmp_path)
        return tmp_path / "outputs"

    return run


def test_every_section_has_a_test_and_a_command():
    examples = [text for title, text in SECTIONS.items() if title.startswith(("A ", "An "))]
    assert len(examples) == 5
    for text in examples:
        assert "\ndef test_" in text
        assert "\nigpt-train" in text


def test_a_data_source(outside):
    run = outside("A data source") / "stripes"
    assert json.loads((run / "summary.json").read_text())["test/images"] == 16
    assert (run / "probe" / "accuracy.csv").exists()


def test_a_block_variant(outside):
    run = outside("A block variant") / "relu2"
    assert type(igpt.load(run).model.blocks[0].mlp).__name__ == "ReLU2"
    assert any((run / "generated").rglob("*.png"))


def test_a_tokenizer(outside):
    model = igpt.load(outside("A tokenizer") / "coarse")
    assert (model.tokenizer.fingerprint, model.resolution, model.model.config.n_positions) == ("coarse-gray-16", 8, 16)
    cells = model.sample(2).reshape(2, 4, 2, 4, 2, 3)
    assert (cells == cells[:, :, :1, :, :1, :1]).all()  # one gray level in each cell of 2x2 pixels


def test_a_task(outside):
    run = outside("A task") / "z_loss"
    names, *rows = [line.split(",") for line in (run / "metrics.csv").read_text().splitlines()]
    assert len(rows) == 3
    for row in (dict(zip(names, row, strict=True)) for row in rows):
        loss, nats, z = (float(row[f"train/{name}"]) for name in ("loss", "nats_per_token", "z_loss"))
        assert loss == pytest.approx(nats + 1e-3 * z)
    assert igpt.load(run).task.weight == 1e-3


def test_an_evaluator(outside):
    run = outside("An evaluator") / "measured"
    values = json.loads((run / "evaluation" / "validation.json").read_text())
    assert json.loads((run / "summary.json").read_text())["test/mean_color_error"] >= 0
    assert {"validation/mean_color_error", "validation/nats_per_token"} <= set(values)
