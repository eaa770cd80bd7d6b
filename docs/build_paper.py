"""Write docs/paper.md from experiments/paper/table.yml and the cost of each training run: python docs/build_paper.py"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_module

from igpt.commands.plan import read_recipe
from igpt.planning.compute import price

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "experiments" / "paper" / "table.yml"
PAGE = ROOT / "docs" / "paper.md"
HARDWARE = ("device=h100", "devices=8")

HEAD = """# The paper's results as recipes

Each row aims at a result of Chen et al. 2020, *Generative Pretraining from Pixels*. Its recipe is in
[experiments/paper](../experiments/paper); the commands below the table run it, starting from the data. `python
docs/build_paper.py` writes this page from [table.yml](../experiments/paper/table.yml), to which results are
added with commit and hardware. Rows whose last column is empty have not been run yet.

- Cost is the estimate of `igpt-plan` for the training runs of the row itself on eight H100 in bfloat16, at
  40% of their peak. It excludes the rows that this row builds on (such as pre-training), validation, and the
  recomputation of activations. Prices assume 3
  US dollars per hour and device. Fine-tuning ends early, so its cost is an upper bound. `igpt-plan` does not
  estimate probes.
- ImageNet is needed in its original files ([data.md](data.md)). The paper trains in float32, these recipes
  in bf16-mixed; `trainer.precision=32-true` changes that.
- The paper tunes on the validation images and then trains on them, too. To do so, repeat a probe or a
  fine-tuning run with the chosen settings and `data.source.full_train=true`.
- XL was pre-trained on ImageNet and images from the web, which are not public. The number of heads of XL, the
  duration of fine-tuning, and the model of the ablation of mask ratios are not known; the recipes choose
  them.
- Palettes differ from the released one, and losses under different palettes are not comparable. To use the
  released palette, add `tokenizer.path=kmeans_centers.npy`.
- The recipe in RGB tokens is not one of the paper. Its model has no dropout.
"""


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")


def read_table() -> dict[str, dict[str, Any]]:
    """The rows by name."""
    table: dict[str, dict[str, Any]] = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    return table


def page() -> str:
    """The text of docs/paper.md."""
    rows = read_table()
    lines = [HEAD, "| row | published | where | cost | obtained |", "|---|---|---|---|---|"]
    for name, row in rows.items():
        cells = [f"[{row['title']}](#{name})", row["published"] or "-", row["where"], cost(row["commands"])]
        lines.append(f"| {' | '.join(cells)} | {obtained(row)} |")
    for name, row in rows.items():
        lines += ["", f"## {name}", "", f"{row['title']}.", "", *(f"    {line}" for line in chain(rows, name))]
    return "\n".join(lines) + "\n"


def chain(rows: dict[str, dict[str, Any]], name: str) -> list[str]:
    """All commands that lead to the result of a row, in order."""
    before = rows[name].get("after")
    return [*(chain(rows, before) if before else []), *rows[name]["commands"]]


def obtained(row: dict[str, Any]) -> str:
    return "; ".join("{result} ({commit}, {hardware})".format(**found) for found in row["obtained"])


def overrides_of(command: str) -> list[list[str]]:
    """The overrides of each run that a command starts; of a sweep, one list per value that it sweeps over."""
    _, *words = shlex.split(command)
    overrides = [word for word in words if word != "-m"]
    if len(overrides) == len(words):
        return [overrides]
    (swept,) = (word for word in overrides if "," in word)
    key, _, values = swept.partition("=")
    return [[f"{key}={value}" if word == swept else word for word in overrides] for value in values.split(",")]


def cost(commands: list[str]) -> str:
    """FLOPs, time and price of the training runs among the commands."""
    flops = seconds = dollars = 0.0
    for command in commands:
        for overrides in overrides_of(command) if command.startswith("igpt-train ") else []:
            recipe = read_recipe(planned(overrides))
            once = recipe.step_seconds * recipe.steps
            flops += recipe.size.flops * recipe.batch_size * recipe.steps
            seconds += once
            dollars += price(once, recipe.devices, recipe.device.price_per_hour)
    if not flops:
        return "-"
    return f"{flops:.2g} FLOPs, {seconds / 3600:,.0f} h, {dollars:,.0f} USD"


def planned(overrides: list[str]) -> Any:
    """The configuration of igpt-plan for a run. A fine-tuned model has the shape of the one that it starts from."""
    start = [word.rpartition("/")[2] for word in overrides if word.startswith("init_from=")]
    kept = [word for word in overrides if not word.startswith(("init_from=", "hydra."))]
    if start:
        size = next(part for part in start[0].split("_")[::-1] if part in ("s", "m", "l", "xl"))
        side = start[0].removeprefix("imagenet").partition("_")[0]
        kept += [f"model={size}", f"data.source.resolution={side}", "objective.task=ar"]
    with initialize_config_module("igpt.conf", version_base="1.3"):
        config = compose("plan", overrides=[*kept, *HARDWARE])
    return config


if __name__ == "__main__":
    main()
