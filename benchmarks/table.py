"""Tables of benchmarks, printed, and stored as Markdown and CSV with machine, versions, command and commit."""

from __future__ import annotations

import csv
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

import igpt

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"

Cell = str | int | float | None
Row = Mapping[str, Cell]


def write_table(name: str, title: str, rows: Sequence[Row], notes: str) -> None:
    """Print `rows`, and write them to benchmarks/results/`name`.md and .csv.

    The keys of the first row are the columns; cells that another row lacks are empty. Round numbers beforehand.
    """
    head = f"{machine()}; {versions()}; `{command()}`; commit {commit()}"
    text = f"# {title}\n\n{head}\n\n{markdown(rows)}\n\n{notes}\n"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(text, encoding="utf-8")
    with (RESULTS / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
        file.write(f"# {head}\n")
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(text)


def markdown(rows: Sequence[Row]) -> str:
    """A Markdown table, with columns of numbers aligned to the right."""
    columns = list(rows[0])
    numeric = [any(isinstance(row.get(column), int | float) for row in rows) for column in columns]
    lines = [columns, ["--:" if is_number else ":--" for is_number in numeric]]
    lines += [[_cell_text(row.get(column)) for column in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell_text(cell: Cell) -> str:
    if cell is None:
        return ""
    return cell if isinstance(cell, str) else f"{cell:,}"


def machine() -> str:
    """The GPU, if any, and the processor with the number of cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    processor = f"{_processor()}, {cores} cores"
    return f"{torch.cuda.get_device_name()}; {processor}" if torch.cuda.is_available() else processor


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def versions() -> str:
    return f"Python {platform.python_version()}, torch {torch.__version__}, igpt {igpt.__version__}"


def command() -> str:
    """The command that runs this script."""
    return shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])


def commit() -> str:
    """Short hash of the commit, with a plus sign if any file but these results differs from it."""
    changed = _git("status", "--porcelain", "--", ".", ":!benchmarks/results")
    return (_git("rev-parse", "--short", "HEAD") or "unknown") + ("+" if changed else "")


def _git(*arguments: str) -> str:
    return subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True).stdout.strip()
