"""Run all benchmarks one after the other, and summarize them in one table.

python benchmarks/all.py                   on a CPU, in about ten minutes
python benchmarks/all.py palette loader    only these; the summary uses the stored tables of the others
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
    "photo_windows",
    "probe",
    "plan",
    "scaling",
    "processes",
    "startup",
    "metrics",
)

# Name of a table -> script and arguments that produce it.
GPU_TABLES = {
    "plan_gpu": "plan --models s m l --sides 32 --colors 512 --precision bf16-mixed --compile",
    "training_step_s_gpu": "training_step --model s --batch-size 16 --precisions fp32 tf32 bf16 --compile-both",
    "training_step_m_gpu": "training_step --model m --batch-size 8 --precisions bf16 --compile-both",
    "training_step_l_gpu": "training_step --model l --batch-size 4 --precisions bf16 --compile-both",
    "sampling_gpu": "sampling --model s --batch-sizes 1 64 --bf16-cache --compile",
    "features_gpu": "features --model s --batch-size 64",
    "scaling_gpu": "scaling --width 512 --layers 24 --heads 8 --batch-size 16",
}

# Rows of the summary: text, table, first cell of the row in that table, column.
SUMMARY = (
    ("training step: speedup over Hugging Face", "training_step", "igpt", "speedup over Hugging Face"),
    ("training step: saved for backward, MB", "training_step", "igpt", "saved for backward, MB"),
    (
        "training step: saved for backward by Hugging Face, MB",
        "training_step",
        "Hugging Face",
        "saved for backward, MB",
    ),
    ("features of all layers: speedup over Hugging Face", "features", "igpt", "speedup over Hugging Face"),
    (
        "tokens: million pixels per second on a core",
        "tokens",
        "igpt: table of 2^24 entries",
        "million pixels per second",
    ),
    ("tokens: the same by Hugging Face", "tokens", "transformers: color_quantize", "million pixels per second"),
    ("loader: images per second", "loader", "igpt", "images per second"),
    ("loader: speedup over Hugging Face", "loader", "igpt", "speedup"),
    (
        "startup: seconds to the first step of the demo",
        "startup",
        "first step of experiment=emoji_modern, first time",
        "seconds",
    ),
    ("metrics.csv: milliseconds per row after 200,000 rows", "metrics", "igpt: appended", "ms at 200,000 rows"),
    ("startup: seconds of igpt-train --help", "startup", "igpt-train --help", "seconds"),
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
    summarize(f"Minutes: {minutes}; total {sum(seconds.values()) / 60:.1f}.")


def summarize(notes: str) -> None:
    """Write the summary of the stored tables."""
    rows: list[Row] = [
        {"quantity": text, "value": cell(table, first, column), "commit": commit_of(table)}
        for text, table, first, column in SUMMARY
    ]
    for row in read("sampling"):
        if row["implementation"] != "igpt":
            text = f"sampling, batch size {row['batch size']}: {row['implementation']}, time relative to igpt"
            value = float(row["time relative to igpt"])
            rows.append({"quantity": text, "value": value, "commit": commit_of("sampling")})
    write_table("summary", "Main results", rows, notes)


def run(script: str, *arguments: str) -> float:
    """Run a script in a process of its own; return its seconds."""
    start = time.perf_counter()
    subprocess.run([sys.executable, Path(__file__).with_name(f"{script}.py"), *arguments], check=True)
    return time.perf_counter() - start


def read(table: str) -> list[dict[str, str]]:
    with (RESULTS / f"{table}.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


def commit_of(table: str) -> str:
    """The commit at which a table was measured, from its first line."""
    return (RESULTS / f"{table}.csv").read_text(encoding="utf-8").splitlines()[0].rpartition("commit ")[2]


def cell(table: str, first: str, column: str) -> float:
    """The number in the first row of a table whose first cell is `first`."""
    return next(float(row[column]) for row in read(table) if next(iter(row.values())) == first)


if __name__ == "__main__":
    main()
