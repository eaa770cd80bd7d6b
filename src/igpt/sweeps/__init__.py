"""The jobs of a Hydra sweep: how they start, what is recorded of them, their table, pruning."""
