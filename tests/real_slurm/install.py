"""Installs SLURM for tests/real_slurm from Debian's packages if possible; otherwise says what is missing.

python tests/real_slurm/install.py ends with status 0 if a SLURM can be started now.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import slurm

PACKAGES = ("munge", "slurmctld", "slurmd", "slurm-client")
APT = ("apt-get", "-qq", "-o", "Acquire::Retries=1", "-o", "Acquire::http::Timeout=20")


def main() -> None:
    if not slurm.missing():
        return
    if os.geteuid() == 0 and shutil.which("apt-get"):
        print(f"Installing {' '.join(PACKAGES)}")
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (("update",), ("install", "-y", "--no-install-recommends", *PACKAGES)):
            subprocess.run([*APT, *command], env=environment, stdout=subprocess.DEVNULL, timeout=600)
    if slurm.missing():
        sys.exit(
            f"No SLURM can be started here without {', '.join(slurm.missing())}; be root, and install Debian's "
            f"{', '.join(PACKAGES)}."
        )


if __name__ == "__main__":
    main()
