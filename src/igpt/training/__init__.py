"""Training: optimizers, callbacks, loggers, and writing checkpoints."""
