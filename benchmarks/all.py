"""All benchmarks, one after the other, and their main figures in one table at the end.

python benchmarks/all.py                   on a CPU, in about ten minutes
python benchmarks/all.py palette loader    only these, beside the tables there are
python benchmarks/all.py --gpu             on a GPU: the paper's sizes, compiled, in bfloat16
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import time
from pathlib import Path

from table import RESULTS, Row, write_table

SCRIPTS = (
    "training_step",
    "sampling",
    "features",
    "palette",
    "packing",
    "loader",
    "probe",
    "plan",
    "scaling",
    "processes",
    "startup",
    "metrics",
)

# A table's name, and the script and arguments that make it.
GPU_TABLES = {
    "plan_gpu": "plan --models s m l --sides 32 --colors 512 --precision bf16-mixed --compile",
    "training_step_s_gpu": "training_step --model s --batch-size 16 --precisions fp32 tf32 bf16 --compile-both",
    "training_step_m_gpu": "training_step --model m --batch-size 8 --precisions bf16 --compile-both",
    "training_step_l_gpu": "training_step --model l --batch-size 4 --precisions bf16 --compile-both",
    "sampling_gpu": "sampling --model s --batch-sizes 1 64 --bf16-cache --compile",
    "features_gpu": "features --model s --batch-size 64",
    "scaling_gpu": "scaling --width 512 --layers 24 --heads 8 --batch-size 16",
}

# What to show at the end: a text, a table, the first cell of a row, and a column.
FIGURES = (
    ("training step, times Hugging Face's speed", "training_step", "igpt", "times Hugging Face's speed"),
    ("the same, kept for backward, MB", "training_step", "igpt", "kept for backward, MB"),
    ("Hugging Face's, kept for backward, MB", "training_step", "Hugging Face", "kept for backward, MB"),
    ("features of all layers, times Hugging Face's speed", "features", "igpt", "times Hugging Face's speed"),
    ("tokens, million pixels a second on a core", "tokens", "igpt: table of 2^24 entries", "million pixels a second"),
    ("Hugging Face's", "tokens", "transformers: color_quantize", "million pixels a second"),
    ("loader, images a second", "loader", "igpt", "images a second"),
    ("loader, times Hugging Face's speed", "loader", "igpt", "ratio"),
    ("seconds to the demo's first step", "startup", "first step of experiment=emoji_ar, first time", "seconds"),
    ("ms to log a row after 200,000 rows", "metrics", "igpt: appended", "ms at 200,000 rows"),
    ("seconds to igpt-train --help", "startup", "igpt-train --help", "seconds"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scripts", nargs="*", metavar="SCRIPT", default=SCRIPTS, help=", ".join(SCRIPTS))
    parser.add_argument("--gpu", action="store_true")
    arguments = parser.parse_args()
    if arguments.gpu:
        for name, command in GPU_TABLES.items():
            run(*command.split(), "--device", "cuda", "--name", name)
        return
    seconds = {script: run(script) for script in arguments.scripts}
    minutes = ", ".join(f"{script} {each / 60:.1f}" for script, each in seconds.items())
    summarize(f"Minutes: {minutes}; together {sum(seconds.values()) / 60:.1f}.")


def summarize(notes: str) -> None:
    """The main figures of the tables that there are."""
    rows: list[Row] = [
        {"what": text, "measured": cell(table, first, column), "of commit": commit_of(table)}
        for text, table, first, column in FIGURES
    ]
    for row in read("sampling"):
        if row["drawn by"] != "igpt":
            what = f"drawing {row['pictures at once']} at once, times igpt's seconds: {row['drawn by']}"
            rows.append({"what": what, "measured": float(row["times igpt's"]), "of commit": commit_of("sampling")})
    write_table("summary", "Main figures", rows, notes)


def run(script: str, *arguments: str) -> float:
    """Run a script in a process of its own; the seconds it took."""
    start = time.perf_counter()
    subprocess.run([sys.executable, Path(__file__).with_name(f"{script}.py"), *arguments], check=True)
    return time.perf_counter() - start


def read(table: str) -> list[dict[str, str]]:
    with (RESULTS / f"{table}.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


def commit_of(table: str) -> str:
    """The commit that a table was measured at, from its head line."""
    return (RESULTS / f"{table}.csv").read_text(encoding="utf-8").splitlines()[0].rpartition("commit ")[2]


def cell(table: str, first: str, column: str) -> float:
    """The number in the first row of a table whose first cell is `first`."""
    return next(float(row[column]) for row in read(table) if next(iter(row.values())) == first)


if __name__ == "__main__":
    main()
