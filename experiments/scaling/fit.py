"""Fit the law of a scaling study and save it: python experiments/scaling/fit.py [RESULTS] [FIT]

igpt-plan scaling_fit=experiments/scaling/fit.json budget=FLOPS then proposes a size and a number of steps.
"""

import argparse
import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))  # for the package `studies`

import numpy as np  # noqa: E402
from studies.results import read_results  # noqa: E402
from studies.study import Study, results_of  # noqa: E402

from igpt.errors import IgptError  # noqa: E402
from igpt.files import atomic_path  # noqa: E402
from igpt.planning.scaling_law import fit_scaling_law  # noqa: E402

DATA = "Fashion-MNIST, 14x14 pixels, 16 grays (rotary positions, Muon, batches of 16)"


def main() -> None:
    parser = argparse.ArgumentParser(description="Fit L = E + A N^-alpha + B D^-beta to the results of run.py.")
    parser.add_argument("results", nargs="?", type=Path, default=HERE / "results.jsonl")
    parser.add_argument("fit", nargs="?", type=Path, default=HERE / "fit.json")
    asked = parser.parse_args()
    study = Study.read(HERE / "study.yml")
    found = read_results(asked.results)
    runs = [run for one in study.rounds for run in study.runs(one, found)]
    rows = list(results_of(runs, found).values())
    columns = (np.array([row[key] for row in rows], float) for key in ("parameters", "tokens", "test_nats", "flops"))
    try:
        law = fit_scaling_law(*columns, data=DATA, n_positions=196, vocab_size=16)
    except IgptError as error:
        sys.exit(f"Error: {error}")
    with atomic_path(asked.fit) as temporary:
        temporary.write_text(json.dumps(law.as_json(), indent=1) + "\n", encoding="utf-8")
    print(f"{len(rows)} of {len(runs)} runs: {law}")
    for row in rows:
        expected = law.loss(row["parameters"], row["tokens"])
        print(f"{row['trial']}, {row['steps']} steps: {row['test_nats']:.4f}, by the law {expected:.4f}")


if __name__ == "__main__":
    main()
