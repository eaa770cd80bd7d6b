"""The scaling study: python experiments/scaling/run.py [--jobs 2] [--list]; see --help. fit.py fits a law to it."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))  # for the package `studies`

from studies.runner import main  # noqa: E402

if __name__ == "__main__":
    main(HERE)
