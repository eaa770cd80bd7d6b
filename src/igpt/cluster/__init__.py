"""Several processes, signals, and SLURM."""
