"""Sweeps: how the jobs start (slurm_jobs, subprocess_jobs, code_snapshot), their records, their table, pruning."""
