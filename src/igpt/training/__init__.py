"""Everything around the training loop: optimizers, callbacks, tracking, the final report."""
