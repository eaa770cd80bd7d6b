"""Train a record of the speed-run, and say whether it counts: python experiments/speedrun/run.py RECORD [--again]"""

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))  # for the package `studies`

from studies.results import read_results  # noqa: E402
from studies.runner import run_study  # noqa: E402
from studies.speedrun import Records  # noqa: E402
from studies.study import Choice  # noqa: E402

from igpt.errors import IgptError  # noqa: E402


def main() -> None:
    records = Records.read(HERE / "records.yml")
    parser = argparse.ArgumentParser(description="Train the three seeds of a record, and compare them with its target.")
    parser.add_argument("record", choices=list(records.records))
    parser.add_argument("--out", type=Path, default=Path("outputs/speedrun"), help="folder of the run directories")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time; they share the cores")
    parser.add_argument("--again", action="store_true", help="also if results.jsonl has the runs; it stays as it is")
    asked = parser.parse_args()
    out = asked.out / "again" if asked.again else asked.out
    results = out / "results.jsonl" if asked.again else HERE / "results.jsonl"
    try:
        failed = run_study(records.study, Choice(trials=[asked.record]), results, out, asked.jobs, None)
        if failed:
            sys.exit(f"Error: {len(failed)} runs failed; repeat the command, or see their logs in {out}.")
        print(records.score(asked.record, read_results(results)).accepted())
    except IgptError as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
