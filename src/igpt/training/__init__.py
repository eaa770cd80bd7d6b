"""Everything around the training loop: optimisers, callbacks, tracking, the final report."""
